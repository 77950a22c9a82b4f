"""What queries of a large `msus` table cost: one adapter, one site, one merged rank.

`python -m jobs.benchmarks.rows` records one merge with 10^7 rows in a catalog on disk, and one with 10^8
in another, as a merge of 20,000 adapters of rank 22 with 224 sites has them. It asks each what people
ask, and prints CPU seconds, wall and the largest memory of the process, start-up included. Numbers are
random; nothing is merged. From the growth between the two it computes what 10^9 rows take. 10^8 rows
need 2 GB of disk. `--output FILE` keeps the figures as JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from jobs.benchmarks.fleet import LAYERS, SITES, measured
from jobs.benchmarks.scale import slope
from jobs.benchmarks.synthetic_zoo import layer_sites
from lego_ray.catalog.merges import append_merge
from lego_ray.catalog.msus import MsuRows, SiteMsus
from lego_ray.catalog.tables import Catalog

ROWS = (10_000_000, 100_000_000)
ADAPTERS = 20_000
CLUSTERS = 64
COMPUTED = 1_000_000_000
MERGE_ID = hashlib.sha256(b"merge").hexdigest()
SITE = "model.layers.7.self_attn.q_proj"


def main() -> None:
    """Makes each table, asks it, and prints a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=list(ROWS))
    parser.add_argument("--folder", type=Path, help="where to make the tables")
    parser.add_argument("--output", type=Path, help="where to keep the figures, as JSON")
    given = parser.parse_args()
    print(f"{'rows':>11}  {'question':28}{'CPU s':>9}{'wall s':>9}{'MB':>8}", flush=True)
    found: list[dict[str, Any]] = []
    for size in sorted(given.rows):
        with tempfile.TemporaryDirectory(dir=given.folder) as name:
            found += _asked(f"{name}/catalog", size)
    computed = _computed(found)
    result = {"adapters": ADAPTERS, "sites": SITES, "rows": found, "computed": computed}
    for row in computed:
        _print({**row, "question": f"{row['question']}, computed"})
    print(json.dumps(result))
    if given.output:
        given.output.write_text(json.dumps(result, indent=1) + "\n")


def _asked(catalog: str, size: int) -> list[dict[str, Any]]:
    rank = max(1, round(size / SITES / ADAPTERS))
    adapters = min(ADAPTERS, max(1, round(size / SITES / rank)))
    ids = [hashlib.sha256(b"%d" % number).hexdigest() for number in range(adapters)]
    rows = [_recorded(Catalog(catalog), ids, rank)]
    _print(rows[0])
    questions = {
        "lineage of one adapter": ["catalog", "lineage", "--adapter", ids[adapters // 2]],
        "lineage of one site": ["catalog", "lineage", "merged", "--site", SITE, "--rank", "3"],
        "SQL, one adapter": ["catalog", "sql", _sql("adapter_id", ids[adapters // 3])],
        "SQL, one site": ["catalog", "sql", _sql("site", SITE)],
    }
    for question, words in questions.items():
        found = measured([*words, f"--catalog={catalog}", "--json"])
        rows.append({"rows": rows[0]["rows"], "question": question, **found})
        _print(rows[-1])
    return rows


def _sql(column: str, value: str) -> str:
    return f"SELECT count(*), sum(weight) FROM msus WHERE {column} = '{value}'"


def _recorded(catalog: Catalog, ids: Sequence[str], rank: int) -> dict[str, Any]:
    """Records the merge; what that took of this process."""
    generator = np.random.default_rng(0)
    n = len(ids) * rank
    adapters = np.repeat(np.arange(len(ids), dtype=np.int32), rank)
    ranks = np.tile(np.arange(rank, dtype=np.int32), len(ids))
    clusters = generator.integers(CLUSTERS, size=n, dtype=np.int32)
    numbers = generator.random(n + 2 * SITES)  # each site has them from another one on
    sites = [
        SiteMsus(
            f"model.layers.{layer}.{module}",
            adapters,
            ranks,
            np.roll(clusters, at),
            numbers[2 * at : 2 * at + n],
            numbers[2 * at + 1 : 2 * at + 1 + n],
        )
        for at, (layer, module) in enumerate(
            (layer, module) for layer in range(LAYERS) for module, *_ in layer_sites(1, 1)
        )
    ]
    details: list[dict[str, Any]] = [
        dict.fromkeys(("inertia", "relative_error", "norm_ratio"), 0.5)
        | {"merge_id": MERGE_ID, "site": site.site, "d_in": 1, "d_out": 1, "iterations": 1}
        | {"n_msus": n, "rank": CLUSTERS}
        for site in sites
    ]
    begun, cpu = time.perf_counter(), time.process_time()
    append_merge(catalog, _row(ids, n), details, MsuRows(MERGE_ID, ids, sites))
    return {
        "rows": n * SITES,
        "question": "recorded",
        "cpu_seconds": time.process_time() - cpu,
        "seconds": time.perf_counter() - begun,
        "bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _row(ids: Sequence[str], n: int) -> dict[str, Any]:
    texts = ("recipe", "output_uri", "content_hash", "output_adapter_id")
    return {
        **dict.fromkeys(texts, "none"),
        "merge_id": MERGE_ID,
        "name": "merged",
        "method": "lego",
        "rank": CLUSTERS,
        "seed": 0,
        "adapter_ids": list(ids),
        "status": "ok",
        "created_at": datetime.now(UTC),
        "seconds": 0.0,
        "versions": {},
        "n_sites": SITES,
        "n_msus": n * SITES,
    }


def _computed(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What `COMPUTED` rows take, by the growth between the two largest tables."""
    rows = []
    for question in dict.fromkeys(row["question"] for row in found):
        mine = [row for row in found if row["question"] == question]
        if len(mine) < 2:
            continue
        small, large = mine[-2:]
        grown: dict[str, Any] = {"rows": COMPUTED, "question": question}
        for name in ("cpu_seconds", "seconds", "bytes"):
            a_row = max(0.0, large[name] - small[name]) / (large["rows"] - small["rows"])
            grown[name] = large[name] + a_row * (COMPUTED - large["rows"])
        more = [row["cpu_seconds"] for row in (small, large)]
        grown["exponent"] = slope([small["rows"], large["rows"]], more)
        rows.append(grown)
    return rows


def _print(row: dict[str, Any]) -> None:
    print(
        f"{row['rows']:11}  {row['question']:28}{row['cpu_seconds']:9.2f}{row['seconds']:9.2f}"
        f"{row['bytes'] / 1e6:8.0f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
