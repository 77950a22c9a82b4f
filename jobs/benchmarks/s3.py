"""Reading a zoo from S3 by boto3, as lego-ray does, against obstore, and what a whole merge would gain.

`python -m jobs.benchmarks.s3` starts a Ceph gateway and prints how fast each reads the ranges of
one merge, with how many requests and surplus bytes, then the wall of the merge with either.
lego-ray would read through obstore if that made the whole merge 1.5 times as fast. With `--uri
s3://bucket/prefix` an empty place on the server that the environment names is used, and left as it
is after.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import lego_ray
from jobs.benchmarks.obstore_reads import reading_through_obstore, through_obstore
from jobs.benchmarks.source_reads import Reads, through_store, timed_reads
from jobs.benchmarks.synthetic_zoo import build
from jobs.benchmarks.whole_merge import whole_merge
from lego_ray.formats.peft_config import WEIGHTS_NAME
from lego_ray.storage.open import open_store
from lego_ray.tasks.cut import tasks_of
from tests.ceph_gateway import one_server

WORTH_A_CHANGE = 1.5
READERS = ("boto3", "obstore")


def main() -> None:
    """Builds the zoo, reads and merges it in turn, and prints tables and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapters", type=int, default=32)
    parser.add_argument("--layers", type=int, default=22, help="of seven sites each")
    parser.add_argument("--rank", type=int, default=16, help="of the sources and the merge")
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--runs", type=int, default=4, help="of each, in turn")
    parser.add_argument("--uri", help="where to work, instead of on a server of its own")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, _place(given.uri) as root:
        zoo = f"{root}/zoo"
        _upload(Path(folder) / "zoo", zoo, given)
        plan = lego_ray.plan(zoo, rank=given.rank)
        print(
            f"{given.adapters} adapters of rank {given.rank}, {plan.n_sites} sites, "
            f"{plan.read_bytes / 1e6:.0f} MB of tensors in {len(plan.tasks)} tasks, on S3",
            flush=True,
        )
        reads = _compare_reads(list(tasks_of(plan)), given.runs)
        merges = _compare_merges(zoo, Path(folder), given, plan.read_bytes)
    print(json.dumps({**reads, **merges, **_decide(reads, merges)}))


@contextmanager
def _place(uri: str | None) -> Iterator[str]:
    if uri:
        yield uri.rstrip("/")
        return
    with one_server() as server:
        yield f"s3://{server.bucket()}"


def _upload(folder: Path, uri: str, given: argparse.Namespace) -> None:
    build(
        folder,
        adapters=given.adapters,
        layers=given.layers,
        rank=given.rank,
        hidden=given.hidden,
        intermediate=given.hidden * 11 // 4,
    )
    store = open_store(uri)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        store.create(str(file.relative_to(folder)), file.read_bytes())


def _compare_reads(tasks: list[Any], runs: int) -> dict[str, Any]:
    found: dict[str, list[Reads]] = {name: [] for name in READERS}
    for turn in range(runs):
        for name in _order(turn):
            read = through_store if name == "boto3" else through_obstore
            found[name].append(timed_reads(tasks, read))
    speeds = {name: statistics.median(r.speed for r in found[name]) / 1e6 for name in READERS}
    print(f"{'reads of the merge':20}{'MB/s':>8}{'seconds':>9}{'requests':>10}{'surplus':>9}")
    for name in READERS:
        one = found[name][0]
        print(
            f"{name:20}{speeds[name]:8.0f}{one.tensor_bytes / speeds[name] / 1e6:9.2f}"
            f"{one.requests:10}{one.fetched_bytes / one.tensor_bytes:9.4f}"
        )
    print(f"obstore reads {speeds['obstore'] / speeds['boto3']:.2f} times as fast", flush=True)
    return {
        "read_mb_s": speeds,
        "read_seconds": {n: found[n][0].tensor_bytes / speeds[n] / 1e6 for n in READERS},
        "read_ratio": speeds["obstore"] / speeds["boto3"],
        "requests": {name: found[name][0].requests for name in READERS},
        "surplus": {n: found[n][0].fetched_bytes / found[n][0].tensor_bytes for n in READERS},
    }


def _order(turn: int) -> tuple[str, ...]:
    """Each goes first as often as the other: the first of all finds everything cold."""
    return READERS if turn % 2 == 0 else READERS[::-1]


def _compare_merges(
    zoo: str, folder: Path, given: argparse.Namespace, tensor_bytes: int
) -> dict[str, Any]:
    whole = [
        whole_merge(zoo, folder / f"whole-{turn}", rank=given.rank, name="m")
        for turn in range(given.runs)
    ]
    wall = statistics.median(merge.seconds for merge in whole)
    fetched = whole[0].record["bytes_read"] / tensor_bytes
    print(f"whole merge to disk on a local Ray, boto3: {wall:.2f} s, start-up included")
    print(f"bytes fetched over tensor bytes, headers and samples included: {fetched:.4f}")
    seconds: dict[str, list[float]] = {name: [] for name in READERS}
    busy: dict[str, list[float]] = {name: [] for name in READERS}
    for turn in range(given.runs):
        for name in _order(turn):
            output = folder / f"{name}-{turn}"
            with reading_through_obstore() if name == "obstore" else nullcontext():
                started, busy_before = time.perf_counter(), time.process_time()
                lego_ray.merge(zoo, rank=given.rank, output=output, runner="inline", name="m")
                seconds[name].append(time.perf_counter() - started)
                busy[name].append(time.process_time() - busy_before)
            if _weights(output) != _weights(folder / "whole-0"):
                raise RuntimeError(f"{output} differs from the merge of the command line.")
    inline = {name: statistics.median(seconds[name]) for name in READERS}
    cpu = {name: statistics.median(busy[name]) for name in READERS}
    print(
        f"the same in this process, without start-up: {inline['boto3']:.2f} s by boto3, "
        f"{inline['obstore']:.2f} s by obstore; of a core {cpu['boto3']:.2f} s and "
        f"{cpu['obstore']:.2f} s"
    )
    return {
        "merge_seconds": wall,
        "fetched_over_tensors": fetched,
        "inline_seconds": inline,
        "inline_cpu_seconds": cpu,
    }


def _decide(reads: dict[str, Any], merges: dict[str, Any]) -> dict[str, float]:
    """What the merge gains, and what it could gain at most if no read overlapped any work."""
    wall, seconds = merges["merge_seconds"], reads["read_seconds"]
    measured = merges["inline_seconds"]["boto3"] / merges["inline_seconds"]["obstore"]
    bound = wall / (wall - max(0.0, seconds["boto3"] - seconds["obstore"]))
    choice = "obstore" if measured >= WORTH_A_CHANGE else "boto3"
    print(
        f"the whole merge gains {measured:.2f} in this process, {bound:.2f} at most on Ray; "
        f"{WORTH_A_CHANGE} would be worth a change: read by {choice}"
    )
    return {"gain": measured, "gain_bound": bound}


def _weights(output: Path) -> bytes:
    return (output / WEIGHTS_NAME).read_bytes()


if __name__ == "__main__":
    main()
