"""How wall time and memory grow with the number of adapters.

`python -m jobs.benchmarks.scale` merges zoos of rising size with one memory budget. It prints, for
each, wall time, the peak of the fattest Ray worker, of the driver and of the object store, and what
Ray spilled; then the exponent of time in adapters (1 is linear) and the ratio of the workers' peaks
(1 is flat; zoos that do not fill the budget make it more).

A worker's peak is its own memory (PSS without shared memory); the object store's is the pages in use of
its file in shared memory, whoever has mapped them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jobs.benchmarks.synthetic_zoo import build
from jobs.benchmarks.whole_merge import whole_merge
from lego_ray.planning.arguments import parse_bytes

SIZES = (64, 256, 1024)
# Hidden width, layers and rank. Two layers, for a layer is the least that is one task; tiny shapes let
# the number of adapters grow, not their bytes.
SHAPE, SMALL_SHAPE = (256, 2, 16), (64, 2, 4)


def main() -> None:
    """Builds and merges each zoo, and prints a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapters", type=int, nargs="+", help="sizes instead of 64, 256, 1024")
    parser.add_argument("--small", action="store_true", help="tiny shapes, and 4096 adapters too")
    parser.add_argument("--memory-budget", default="1GiB", help="of one worker")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    given = parser.parse_args()
    hidden, layers, rank = SMALL_SHAPE if given.small else SHAPE
    sizes = sorted(given.adapters or (*SIZES, *((4096,) if given.small else ())))
    print(
        f"{7 * layers} sites of hidden width {hidden}, rank {rank} to {rank}; {given.workers} "
        f"workers of {given.memory_budget}"
    )
    print(
        f"{'adapters':>8}{'MB':>8}{'wall s':>9}{'ms each':>9}{'worker MB':>11}{'driver MB':>11}"
        f"{'store MB':>10}{'spilled MB':>12}",
        flush=True,
    )
    rows = [_merge(1, given, hidden, layers, rank)]
    rows += [_merge(size, given, hidden, layers, rank) for size in sizes]
    print(json.dumps({"rows": rows, **_growth(rows, parse_bytes(given.memory_budget))}))


def _merge(
    adapters: int, given: argparse.Namespace, hidden: int, layers: int, rank: int
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        zoo = Path(name) / "zoo"
        n_bytes = build(
            zoo,
            adapters=adapters,
            layers=layers,
            rank=rank,
            hidden=hidden,
            intermediate=hidden * 11 // 4,
        )
        merged = whole_merge(
            zoo,
            Path(name) / "merged",
            catalog=Path(name) / "catalog",
            rank=rank,
            workers=given.workers,
            memory_budget=given.memory_budget,
        )
    peaks = merged.measured.peaks
    print(
        f"{adapters:8}{n_bytes / 1e6:8.0f}{merged.seconds:9.1f}"
        f"{1000 * merged.seconds / adapters:9.1f}{peaks.worker_bytes / 1e6:11.0f}"
        f"{peaks.driver_bytes / 1e6:11.0f}{peaks.store_bytes / 1e6:10.0f}"
        f"{peaks.spilled_bytes / 1e6:12.0f}",
        flush=True,
    )
    return {"adapters": adapters, "seconds": merged.seconds, **asdict(peaks)}


def _growth(rows: Sequence[dict[str, Any]], budget: int) -> dict[str, float]:
    """The first row is one adapter: its wall is start-up and its worker holds code alone."""
    start_up, sized = rows[0]["seconds"], rows[1:]
    fattest = max(row["worker_bytes"] for row in sized)
    of_budget = (fattest - rows[0]["worker_bytes"]) / budget
    adapters = [row["adapters"] for row in sized]
    exponent = slope(adapters, [max(row["seconds"] - start_up, 0.001) for row in sized])
    whole = slope(adapters, [row["seconds"] for row in sized])
    workers = sized[-1]["worker_bytes"] / sized[0]["worker_bytes"]
    drivers = sized[-1]["driver_bytes"] / sized[0]["driver_bytes"]
    print(
        f"time grows as adapters^{exponent:.2f} without start-up ({start_up:.1f} s, the merge of one), "
        f"^{whole:.2f} with it\n"
        f"largest over smallest zoo: worker peak {workers:.2f}, driver peak {drivers:.2f}\n"
        f"the fattest worker took {of_budget:.2f} of the budget above what it takes for one adapter"
    )
    return {
        "start_up": start_up,
        "exponent": exponent,
        "exponent_with_start_up": whole,
        "worker_peak_ratio": workers,
        "worker_peak_of_budget": of_budget,
        "driver_peak_ratio": drivers,
    }


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The exponent p of the power law `value ~ size^p` that fits best (least squares of logs).

    Args:
        sizes: At least two different ones, above zero.
        values: One each, above zero.
    """
    x, y = [math.log(s) for s in sizes], [math.log(v) for v in values]
    middle, height = sum(x) / len(x), sum(y) / len(y)
    above = sum((a - middle) * (b - height) for a, b in zip(x, y, strict=True))
    return above / sum((a - middle) ** 2 for a in x)


if __name__ == "__main__":
    main()
