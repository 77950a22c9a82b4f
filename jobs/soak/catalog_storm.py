"""Many processes at one catalog: merges, scans, refreshes, compactions, vacuums and gc, all at once.

`python -m jobs.soak.catalog_storm --place disk --rounds 200 --processes 8`, or `--place s3` on a
Ceph gateway that it starts. After each round every table is read by its log alone
(`jobs.soak.delta_replay`): each row must be there once, as the last call that wrote it left it, and
none be missing. Vacuums keep nothing. Ends with `catalog check --deep`. Figures go to
`<out>/catalog_storm_<place>.json` and are printed as one JSON line.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

import lego_ray
from jobs.benchmarks.synthetic_zoo import build
from jobs.soak.delta_replay import Replay
from jobs.soak.storm_calls import KINDS, Call, Done, carry_out
from lego_ray.catalog.opening import open_catalog
from lego_ray.catalog.reading import native_filesystem
from lego_ray.catalog.tables import Catalog
from tests.ceph_gateway import one_server

ADAPTERS, SCANNED = 3, 2
SHAPE = {"layers": 1, "rank": 2, "hidden": 8, "intermediate": 12}
# What identifies a row.
KEYS = {
    "adapters": ("adapter_id", "uri"),
    "merges": ("merge_id",),
    "merge_sites": ("merge_id", "site"),
    "msus": ("merge_id", "site", "adapter_id", "rank_index"),
}


@dataclass
class Expected:
    """What must be in the catalog.

    Attributes:
        merges: merge_ids.
        licenses: By adapter directory that is scanned, what its card says.
        leftovers: merge_ids of details that a `gc` may have taken away, as a whole.
    """

    merges: set[str] = field(default_factory=set)
    licenses: dict[str, str] = field(default_factory=dict)
    leftovers: set[str] = field(default_factory=set)


def main() -> None:
    """Storms a catalog, writes the figures, and prints them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--place", choices=("disk", "s3"), default="disk")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("jobs/results"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, _root(given.place, Path(folder)) as root:
        figures = storm(Path(folder) / "sources", root, given.rounds, given.processes)
    figures = {"place": given.place, **figures}
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / f"catalog_storm_{given.place}.json"
    path.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures))


@contextmanager
def _root(place: str, folder: Path) -> Iterator[str]:
    if place == "disk":
        yield str(folder / "library")
        return
    with one_server() as server:
        yield f"s3://{server.bucket()}/storm"


def storm(folder: Path, root: str, rounds: int, processes: int) -> dict[str, Any]:
    """Has processes at one catalog for some rounds, and looks at every row after each.

    Args:
        folder: An empty place on disk for the sources.
        root: An empty place for the catalog and the outputs, on disk or S3.
        rounds: How many.
        processes: In each round, each with one call.

    Returns:
        The figures.

    Raises:
        RuntimeError: If a row is doubled, missing or wrong.
        LegoRayError: If a call fails.
    """
    _sources(folder, processes)
    catalog = open_catalog(f"{root}/catalog")
    expected, calls, overtaken, deleted = Expected(), Counter[str](), 0, 0
    replays: dict[str, Replay] = {}
    rows = 0
    # `gc` needs a catalog with a merge in it.
    _expect(expected, [carry_out(Call("merge", rounds, 0, folder, root, 0.0))])
    started = time.perf_counter()
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, spawn, _one_thread) as pool:
        for number in range(rounds):
            _next_sources(folder, number)
            planted_at = _plant(catalog, number, expected)
            asked = [
                Call(KINDS[(each + number) % len(KINDS)], number, each, folder, root, planted_at)
                for each in range(processes)
            ]
            done = list(pool.map(carry_out, asked))
            calls.update(call.kind for call in asked)
            overtaken += sum(each.overtaken for each in done)
            deleted += sum(each.rows_deleted for each in done)
            _expect(expected, done)
            rows = _check(catalog, replays, expected)
            print(f"round {number + 1} of {rounds}: {rows} rows, each once", flush=True)
    record = lego_ray.check_catalog(catalog.uri, deep=True)
    if not record["ok"]:
        raise RuntimeError(f"check: {record['problems']}")
    return {
        "rounds": rounds,
        "processes": processes,
        "calls": dict(sorted(calls.items())),
        "commits": {table: replay.version + 1 for table, replay in sorted(replays.items())},
        "merges": len(expected.merges),
        "rows": rows,
        "files_overtaken": overtaken,
        "leftover_rows_deleted": deleted,
        "seconds": round(time.perf_counter() - started, 1),
    }


def _one_thread() -> None:
    torch.set_num_threads(1)


def _sources(folder: Path, processes: int) -> None:
    build(folder / "zoo", adapters=ADAPTERS, **SHAPE)
    build(folder / "spare", adapters=1, **SHAPE, seed=1)
    shutil.copytree(folder / "zoo", folder / "refreshed")
    for process in range(processes):
        build(folder / f"scanned-{process}", adapters=SCANNED, **SHAPE, seed=2 + process)
    recipe = {
        "sources": [str(folder / "refreshed")],
        "defaults": {"rank": 2, "options": {"n_init": 1}},
        "merges": [{"name": "everything"}],
    }
    (folder / "library.yaml").write_text(json.dumps(recipe))


def _next_sources(folder: Path, number: int) -> None:
    """Lets an adapter come and go, and another come for good, so that a refresh goes on and back."""
    spare = folder / "refreshed" / "spare"
    if number % 2:
        shutil.copytree(next((folder / "spare").iterdir()), spare)
    elif spare.exists():
        shutil.rmtree(spare)
    if number % 8 == 7:
        build(folder / "refreshed" / f"new-{number}", adapters=1, **SHAPE, seed=1000 + number)


def _plant(catalog: Catalog, number: int, expected: Expected) -> float:
    """Leaves details of a merge that was never published, as a run that was killed does.

    Returns:
        When they were there, a moment before anything that comes after.
    """
    merge_id = f"{number:064x}"
    msu = {"merge_id": merge_id, "site": "s", "adapter_id": "a", "distance": 0.5, "weight": 1.0}
    rows = [{**msu, "rank_index": each, "cluster": 0} for each in range(4)]
    catalog.append("msus", rows, idempotency=(merge_id, 1))
    expected.leftovers.add(merge_id)
    # Stores keep whole seconds.
    time.sleep(1.1)
    planted_at = time.time()
    time.sleep(1.1)
    return planted_at


def _expect(expected: Expected, done: list[Done]) -> None:
    for each in done:
        expected.merges.update(each.merges)
        expected.licenses.update(each.licenses)


def _check(catalog: Catalog, replays: dict[str, Replay], expected: Expected) -> int:
    """Holds every table against what must be in it; returns the number of rows."""
    found: dict[str, list[dict[str, Any]]] = {}
    for table in KEYS:
        if table not in replays:
            if not catalog.exists(table):
                continue
            files = native_filesystem(catalog.uri, catalog.options())
            if files is None:
                raise RuntimeError(f"{catalog.uri} cannot be read by Arrow alone.")
            replays[table] = Replay(files, table)
        found[table] = _rows(replays[table].rows())
    faults: list[str] = []
    for table, rows in found.items():
        keys = Counter(tuple(row[name] for name in KEYS[table]) for row in rows)
        faults += [f"{table}: {n} rows of {key}" for key, n in keys.items() if n > 1]
    merges = found.get("merges", [])
    faults += _differences("merges", {row["merge_id"] for row in merges}, expected.merges)
    names = Counter((row["name"], row["version"]) for row in merges)
    faults += [f"merges: {n} rows are {name}" for name, n in names.items() if n > 1]
    for table, column in (("merge_sites", "n_sites"), ("msus", "n_msus")):
        counts = Counter(row["merge_id"] for row in found.get(table, []))
        faults += _differences(table, set(counts) - expected.leftovers, expected.merges)
        for row in merges:
            if counts[row["merge_id"]] != row[column]:
                faults.append(f"{table}: {counts[row['merge_id']]} of {row[column]} rows")
        faults += [
            f"{table}: {counts[each]} rows of a leftover"
            for each in expected.leftovers
            if counts[each] not in (0, 4)
        ]
    licenses = [(row["uri"], row["license"]) for row in found.get("adapters", [])]
    by_uri = dict(licenses)
    for uri, said in expected.licenses.items():
        if by_uri.get(uri) != said:
            faults.append(f"adapters: {uri} is {by_uri.get(uri)}, not {said}")
    if faults:
        raise RuntimeError("\n".join(faults[:20]))
    return sum(len(rows) for rows in found.values())


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _differences(table: str, found: set[str], expected: set[str]) -> list[str]:
    return [f"{table}: {each} is missing" for each in sorted(expected - found)] + [
        f"{table}: {each} is nobody's" for each in sorted(found - expected)
    ]


if __name__ == "__main__":
    main()
