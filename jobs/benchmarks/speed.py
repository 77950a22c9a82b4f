"""`lego-ray merge` against the script people write today, on one synthetic zoo, in one run.

`python -m jobs.benchmarks.speed` prints both walls, both inertias, peak memory and the ratio; then
what part of our wall is start-up, and how far the rest is from what the disk and torch could do at
best. Walls are of whole processes, start-up of Python, torch and Ray included.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import lego_ray
from jobs.benchmarks.measure import Measured, measure
from jobs.benchmarks.roofline import measure_speeds, roofline, site_works
from jobs.benchmarks.synthetic_zoo import build
from jobs.benchmarks.whole_merge import whole_merge


def main() -> None:
    """Builds the zoo, runs both in turn, and prints tables and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapters", type=int, default=64)
    parser.add_argument("--layers", type=int, default=4, help="of seven sites each")
    parser.add_argument("--rank", type=int, default=16, help="of the sources and the merge")
    parser.add_argument("--n-init", type=int, default=10)
    parser.add_argument("--runs", type=int, default=1, help="of each, in turn")
    parser.add_argument("--runner", default="auto", choices=["auto", "ray", "inline"])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        n_bytes = build(
            folder / "zoo", adapters=given.adapters, layers=given.layers, rank=given.rank
        )
        print(
            f"{given.adapters} adapters of rank {given.rank}, {7 * given.layers} sites, bf16, "
            f"{n_bytes / 1e6:.0f} MB; merged at rank {given.rank}, n_init {given.n_init}; "
            f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}",
            flush=True,
        )
        pairs = [_pair(folder, given, turn) for turn in range(given.runs)]
        compared = _print_pairs(pairs)
        floor = _print_floor(folder, given, compared["walls"][1])
    print(json.dumps({**compared, **floor}))


def _pair(
    folder: Path, given: argparse.Namespace, turn: int
) -> tuple[tuple[Measured, float], tuple[Measured, float]]:
    script = [sys.executable, "-m", "jobs.benchmarks.script_merge", str(folder / "zoo")]
    theirs = measure([*script, str(folder / f"script-{turn}"), str(given.rank), str(given.n_init)])
    ours = _merge(folder, given, "zoo", str(turn))
    table = lego_ray.catalog.sql(
        folder / f"catalog-{turn}", "SELECT sum(inertia) AS total FROM merge_sites"
    )
    inertia = float(table["total"][0].as_py())
    return (theirs, json.loads(theirs.stdout)["inertia"]), (ours, inertia)


def _merge(folder: Path, given: argparse.Namespace, zoo: str, turn: str) -> Measured:
    return whole_merge(
        folder / zoo,
        folder / f"merged-{turn}",
        catalog=folder / f"catalog-{turn}",
        rank=given.rank,
        n_init=given.n_init,
        runner=given.runner,
    ).measured


def _print_pairs(
    pairs: list[tuple[tuple[Measured, float], tuple[Measured, float]]],
) -> dict[str, Any]:
    walls = [statistics.median(pair[i][0].seconds for pair in pairs) for i in (0, 1)]
    peaks = [max(pair[i][0].peaks.all_bytes for pair in pairs) for i in (0, 1)]
    inertias = [pairs[0][i][1] for i in (0, 1)]
    ratio = statistics.median(theirs[0].seconds / ours[0].seconds for theirs, ours in pairs)
    print(f"{'':28}{'wall s':>10}{'peak MB':>10}{'inertia':>14}")
    for name, wall, peak, inertia in zip(
        ("safetensors + scikit-learn", "lego-ray merge"), walls, peaks, inertias, strict=True
    ):
        print(f"{name:28}{wall:10.1f}{peak / 1e6:10.0f}{inertia:14.6g}")
    print(
        f"ratio of walls {ratio:.2f}, of inertias {inertias[1] / inertias[0]:.5f}",
        flush=True,
    )
    return {"walls": walls, "peaks": peaks, "inertias": inertias, "ratio": ratio}


def _print_floor(folder: Path, given: argparse.Namespace, wall: float) -> dict[str, float]:
    """Start-up is the wall of a merge of next to nothing: one adapter, one layer."""
    build(folder / "one", adapters=1, layers=1, rank=given.rank)
    start_up = _merge(folder, given, "one", "one").seconds
    sites = site_works(folder / "catalog-0")
    workers = os.cpu_count() or 1
    speeds = measure_speeds(folder / "zoo", sites[0], workers)
    n_bytes = lego_ray.plan(folder / "zoo", rank=given.rank).read_bytes
    floor = roofline(sites, n_bytes, speeds)
    print(
        f"start-up (one adapter, one layer) {start_up:.1f} s; {wall - start_up:.1f} s without it\n"
        f"reading {floor.reading:.2f} s: {n_bytes / 1e6:.0f} MB at {speeds.read / 1e6:.0f} MB/s\n"
        f"computing {floor.computing:.2f} s: products of all rows at {speeds.search / 1e9:.0f} GFLOP/s "
        f"and one step at {speeds.finish / 1e9:.0f}, both in float32, {workers} at once\n"
        f"wall over the larger {wall / floor.seconds:.2f}, "
        f"without start-up {(wall - start_up) / floor.seconds:.2f}"
    )
    return {
        "start_up": start_up,
        "reading": floor.reading,
        "computing": floor.computing,
        "wall_over_floor": wall / floor.seconds,
        "without_start_up": (wall - start_up) / floor.seconds,
    }


if __name__ == "__main__":
    main()
