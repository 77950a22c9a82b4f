"""One merge with one worker and with two.

`python -m jobs.benchmarks.workers` prints both walls, of whole processes, and their ratio. The zoo
is one that takes a minute and more with one worker, so that start-up is a small part of it. Needs
two cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from jobs.benchmarks.synthetic_zoo import build
from jobs.benchmarks.whole_merge import whole_merge

WORKERS = (1, 2)


def main() -> None:
    """Builds the zoo, merges it in turn, and prints the walls and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapters", type=int, default=96)
    parser.add_argument("--layers", type=int, default=22, help="of seven sites each")
    parser.add_argument("--rank", type=int, default=16, help="of the sources and the merge")
    parser.add_argument("--runs", type=int, default=1, help="of each, in turn")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        zoo = Path(folder) / "zoo"
        n_bytes = build(zoo, adapters=given.adapters, layers=given.layers, rank=given.rank)
        print(
            f"{given.adapters} adapters of rank {given.rank}, {7 * given.layers} sites, "
            f"{n_bytes / 1e6:.0f} MB",
            flush=True,
        )
        seconds: dict[int, list[float]] = {workers: [] for workers in WORKERS}
        for turn in range(given.runs):
            for workers in WORKERS:
                place = Path(folder) / f"{turn}-{workers}"
                merged = whole_merge(
                    zoo,
                    place / "merged",
                    catalog=place / "catalog",
                    rank=given.rank,
                    workers=workers,
                )
                seconds[workers].append(merged.seconds)
                print(f"{workers} workers: {merged.seconds:.1f} s", flush=True)
    walls = [statistics.median(seconds[workers]) for workers in WORKERS]
    ratio = walls[0] / walls[1]
    print(f"2 workers are {ratio:.2f} times as fast as 1")
    print(json.dumps({"walls": walls, "ratio": ratio}))


if __name__ == "__main__":
    main()
