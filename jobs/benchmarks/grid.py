"""k-means of lego-ray, scikit-learn, faiss and fastkmeans over a grid of shapes, in one run.

`python -m jobs.benchmarks.grid` clusters the same points by each, on one thread, with the same number of
starts, and prints for each shape the median of the seconds, the mean of the inertias over the same
seeds, and both as ratios to lego-ray's; then one JSON line. Peers stop by their own rules, after
`kmeans_peers.STEPS` steps at most. Those that are not installed are left out, and named. All take turns,
so that they share what else the machine does.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from jobs.benchmarks.kmeans_peers import Fit, fit_once, fits

ROWS = (512, 2048, 8192)
WIDTHS = (1024, 4096)
RANKS = (8, 16, 64, 256)
SMALL: dict[str, Any] = {"rows": (96,), "widths": (32,), "ranks": (4, 8), "repeats": 1}


def main(words: Sequence[str] | None = None) -> None:
    """Measures the grid and prints a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--ranks", type=int, nargs="+", default=RANKS)
    parser.add_argument("--n-init", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5, help="seeds of each")
    parser.add_argument("--points", choices=("random", "planted"), default="random")
    parser.add_argument("--small", action="store_true", help="a tiny grid, to try the script")
    if (given := parser.parse_args(words)).small:
        vars(given).update(SMALL)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    able, left_out = fits("cpu")
    for name, why in left_out.items():
        print(f"{name} left out: {why}")
    print(f"{given.points} points, {given.n_init} starts, {given.repeats} seeds, one thread")
    print(
        f"{'n':>6}{'d':>6}{'k':>5}  {'':14}{'seconds':>10}{'ratio':>8}{'inertia':>14}{'ratio':>9}"
    )
    found = []
    for n, d, k in itertools.product(given.rows, given.widths, given.ranks):
        points = _points(n, d, k, given.points)
        for row in _compare(points, k, given.n_init, given.repeats, able):
            found.append({"n": n, "d": d, "k": k, **row})
            print(
                f"{n:6}{d:6}{k:5}  {row['name']:14}{row['seconds']:10.3f}{row['seconds_ratio']:8.2f}"
                f"{row['inertia']:14.6g}{row['inertia_ratio']:9.5f}",
                flush=True,
            )
    torch.set_num_threads(threads)
    print(json.dumps({"points": given.points, "rows": found, "left_out": left_out}))


def _compare(
    points: Tensor, k: int, n_init: int, repeats: int, able: dict[str, Fit]
) -> Iterator[dict[str, Any]]:
    """Clusters points by each in turn, seed after seed; lego-ray comes first."""
    for fit in able.values():
        fit(points[: 4 * k], k, 1, 0)  # what a first call loads does not count
    turns = [
        [fit_once(points, k, n_init, fit, seed) for fit in able.values()] for seed in range(repeats)
    ]
    seconds = [statistics.median(each[0] for each in mine) for mine in zip(*turns, strict=True)]
    inertias = [statistics.fmean(each[1] for each in mine) for mine in zip(*turns, strict=True)]
    for name, wall, inertia in zip(able, seconds, inertias, strict=True):
        yield {
            "name": name,
            "seconds": wall,
            "seconds_ratio": wall / seconds[0],
            "inertia": inertia,
            "inertia_ratio": inertia / inertias[0],
        }


def _points(n: int, d: int, k: int, kind: str) -> Tensor:
    generator = torch.Generator().manual_seed(n + d + k)
    points = torch.randn(n, d, generator=generator)
    if kind == "planted":
        points += torch.randn(k, d, generator=generator)[torch.arange(n) % k]
    return points


if __name__ == "__main__":
    main()
