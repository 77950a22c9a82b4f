"""`lego-ray merge` against the script people write today, on one synthetic zoo, in one run.

`python -m jobs.bench_speed` prints both walls, both inertias, peak memory and the ratio. Walls are of
whole processes, start-up of Python, torch and Ray included.
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

from jobs.measure import Measured, measure
from jobs.synthetic_zoo import build


def main() -> None:
    """Builds the zoo, runs both in turn, and prints a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapters", type=int, default=64)
    parser.add_argument("--layers", type=int, default=4, help="of seven sites each")
    parser.add_argument("--rank", type=int, default=16, help="of the sources and the merge")
    parser.add_argument("--n-init", type=int, default=10)
    parser.add_argument("--runs", type=int, default=1, help="of each, in turn")
    parser.add_argument("--runner", default="ray", choices=["ray", "inline"])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        zoo = Path(folder) / "zoo"
        n_bytes = build(zoo, adapters=given.adapters, layers=given.layers, rank=given.rank)
        print(
            f"{given.adapters} adapters of rank {given.rank}, {7 * given.layers} sites, bf16, "
            f"{n_bytes / 1e6:.0f} MB; merged at rank {given.rank}, n_init {given.n_init}; "
            f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}",
            flush=True,
        )
        pairs = [_pair(Path(folder), zoo, given, turn) for turn in range(given.runs)]
    walls = [statistics.median(pair[i][0].seconds for pair in pairs) for i in (0, 1)]
    peaks = [max(pair[i][0].peak_bytes for pair in pairs) for i in (0, 1)]
    inertias = [pairs[0][i][1] for i in (0, 1)]
    ratio = statistics.median(theirs[0].seconds / ours[0].seconds for theirs, ours in pairs)
    print(f"{'':28}{'wall s':>10}{'peak MB':>10}{'inertia':>14}")
    for name, wall, peak, inertia in zip(
        ("safetensors + scikit-learn", "lego-ray merge"), walls, peaks, inertias, strict=True
    ):
        print(f"{name:28}{wall:10.1f}{peak / 1e6:10.0f}{inertia:14.6g}")
    print(f"ratio of walls {ratio:.2f}, of inertias {inertias[1] / inertias[0]:.5f}")
    print(json.dumps({"walls": walls, "peaks": peaks, "inertias": inertias, "ratio": ratio}))


def _pair(
    folder: Path, zoo: Path, given: argparse.Namespace, turn: int
) -> tuple[tuple[Measured, float], tuple[Measured, float]]:
    script = [sys.executable, "-m", "jobs.script_merge", str(zoo), str(folder / f"script-{turn}")]
    theirs = measure([*script, str(given.rank), str(given.n_init)])
    catalog = folder / f"catalog-{turn}"
    ours = measure(
        [
            *(sys.executable, "-m", "lego_ray", "merge", str(zoo)),
            *("--rank", str(given.rank), "--n-init", str(given.n_init)),
            *("--runner", given.runner, "--output", str(folder / f"merged-{turn}")),
            *("--catalog", str(catalog), "--json"),
        ]
    )
    return (theirs, json.loads(theirs.stdout)["inertia"]), (ours, _inertia(catalog))


def _inertia(catalog: Path) -> float:
    import lego_ray

    table = lego_ray.catalog.sql(catalog, "SELECT sum(inertia) AS total FROM merge_sites")
    return float(table["total"][0].as_py())


if __name__ == "__main__":
    main()
