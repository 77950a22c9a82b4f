"""Prints what each method took of memory beside a pool, and what its plan would ask for, in MiB as JSON.

Each method runs in a process forked from one with torch loaded, so that its peak
is its own.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

from lego_ray.methods.names import METHODS
from lego_ray.methods.registry import method_of
from lego_ray.numerics.pool import Pool, pool_of

N, RANK, D_IN, D_OUT = 480, 16, 3072, 6144


def pool(*, alike: bool) -> Pool:
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(RANK, D_IN, generator=generator)
    parts = []
    for adapter in range(N // RANK):
        rows = torch.randn(RANK, D_IN + D_OUT, generator=generator)
        if alike:
            rows[:, :D_IN] = first
        parts.append((adapter, rows))
    return pool_of(parts, D_IN)


def resident(line: str) -> float:
    """`VmRSS` or `VmHWM` of this process in MiB."""
    [found] = [
        each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith(line)
    ]
    return int(found.split()[1]) / 1024


def main() -> None:
    """Solves both pools, of adapters apart and with one A, by each method that is named."""
    torch.set_num_threads(1)
    for name in sys.argv[1:]:
        for alike in (False, True):
            given = pool(alike=alike)
            rank = N if name == "concat" else RANK
            child = os.fork()
            if child == 0:
                method = method_of(name, {})
                route = method.routes(N, D_IN, D_OUT, rank)[0]
                before = resident("VmRSS")
                method.solve(given, rank, torch.Generator().manual_seed(0), route.name)
                took = resident("VmHWM") - before
                asked = route.costs.workspace_bytes / 2**20
                print(json.dumps([name, alike, round(took), round(asked)]), flush=True)
                os._exit(0)
            if os.waitpid(child, 0)[1]:
                raise SystemExit(f"{name} failed")


if __name__ == "__main__":
    assert set(sys.argv[1:]) <= set(METHODS)
    main()
