"""The two exact routes of k-means beside what the plan expects of them.

`python -m jobs.benchmarks.routes` solves one site by inner products (`gram`) and by rows (`msu`)
over a grid of pool sizes, widths and ranks, on one thread, and prints the seconds of each, the
estimates that the planner chooses by, and what the choice costs against the better of the two.
Gaussian rows, which have no clusters to find, are the slow case.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from typing import Any

import torch

from lego_ray.methods.lego import Lego
from lego_ray.numerics.msu import lengths
from lego_ray.numerics.pool import Pool
from lego_ray.tasks.device import device_of

ROWS = (512, 1024, 2048, 4096, 8192)
WIDTHS = (1024, 4096, 8192)
RANKS = (8, 16, 64)


def main() -> None:
    """Measures the grid and prints a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--ranks", type=int, nargs="+", default=RANKS)
    parser.add_argument("--n-init", type=int, default=10)
    parser.add_argument("--gpus", type=float, default=0.0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    device = device_of(given.gpus)
    print(
        f"{'n':>6}{'d':>7}{'k':>4}{'gram s':>10}{'expected':>10}{'msu s':>10}{'expected':>10}"
        f"{'chosen':>8}{'regret':>8}"
    )
    found = []
    for d, n, k in itertools.product(given.widths, given.rows, given.ranks):
        found.append(_measure(n, d, k, given.n_init, device))
        row = found[-1]
        print(
            f"{n:6}{d:7}{k:4}{row['gram']:10.2f}{row['gram_expected']:10.2f}{row['msu']:10.2f}"
            f"{row['msu_expected']:10.2f}{row['chosen']:>8}{row['regret']:8.2f}",
            flush=True,
        )
    total = sum(min(row["gram"], row["msu"]) for row in found)
    taken = sum(row[row["chosen"]] for row in found)
    print(f"the routes chosen take {taken / total:.3f} times what the better ones take, in all")
    print(json.dumps({"rows": found, "chosen_over_best": taken / total}))


def _measure(n: int, d: int, k: int, n_init: int, device: str) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(n + d)
    rows = torch.randn(n, d, generator=generator)
    pool = Pool(rows, d // 2, torch.arange(n) // 16, torch.arange(n) % 16, lengths(rows))
    pool = pool.to(device)
    method = Lego(n_init=n_init)
    routes = method.routes(n, d // 2, d - d // 2, k)
    row: dict[str, Any] = {"n": n, "d": d, "k": k, "chosen": routes[0].name}
    merged = []
    for route in routes:
        started = time.perf_counter()
        solution = method.solve(pool, k, torch.Generator().manual_seed(0), route.name)
        row[route.name] = time.perf_counter() - started
        row[f"{route.name}_expected"] = route.costs.seconds
        row["steps"] = solution.iterations
        merged.append(solution.rows)
    if not torch.equal(merged[0], merged[1]):
        raise RuntimeError(f"the routes differ at n {n}, d {d}, k {k}")
    row["regret"] = row[row["chosen"]] / min(row["gram"], row["msu"])
    return row


if __name__ == "__main__":
    main()
