"""What a fleet of adapters costs the process that plans: CPU time and memory against their number.

`python -m jobs.benchmarks.fleet` writes fleets of 100, 1,000 and 10,000 adapters, each with 224 sites
and next to no weights, and runs the commands that people run on them: `scan`, `plan`, a refresh that
merges, one that finds nothing new, `catalog sql`, `catalog lineage` and `catalog check`. For each it
prints CPU seconds, wall and the largest memory of the process, then the power of the number of adapters
that CPU time grows with. Weights are tiny, so what is measured is the driver, and not reading or
arithmetic. `--output FILE` keeps the figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.benchmarks.scale import slope
from jobs.benchmarks.synthetic_zoo import build

SIZES = (100, 1_000, 10_000)
LAYERS = 32
SITES = 7 * LAYERS
LIBRARY = """\
sources: [{zoo}]
catalog: {folder}/catalog
output: {folder}/library
merges:
  - {{name: all, rank: 1, method: linear}}
"""


def main() -> None:
    """Measures each fleet, and prints a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapters", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--stages", nargs="+", default=[], help="to measure; all by default")
    parser.add_argument("--output", type=Path, help="where to keep the figures, as JSON")
    given = parser.parse_args()
    print(f"{SITES} sites an adapter; {os.cpu_count()} cores")
    print(f"{'adapters':>8}  {'stage':20}{'CPU s':>9}{'wall s':>9}{'MB':>8}", flush=True)
    rows = []
    for size in sorted(given.adapters):
        with tempfile.TemporaryDirectory() as name:
            rows += _fleet(Path(name), size, given.stages)
    exponents = _exponents(rows)
    result = {"sites": SITES, "rows": rows, "exponents": exponents}
    for stage, exponent in exponents.items():
        print(f"{stage:30}grows as adapters^{exponent:.2f} without start-up")
    print(json.dumps(result))
    if given.output:
        given.output.write_text(json.dumps(result, indent=1) + "\n")


def _fleet(folder: Path, size: int, wanted: Sequence[str]) -> list[dict[str, Any]]:
    zoo = folder / "zoo"
    build(zoo, adapters=size, layers=LAYERS, rank=1, hidden=4, intermediate=4)
    (folder / "library.yaml").write_text(LIBRARY.format(zoo=zoo, folder=folder))
    catalog = f"--catalog={folder}/catalog"
    last = f"adapter-{size - 1:04d}"
    stages: dict[str, list[str]] = {
        "scan": ["scan", str(zoo), "--json"],
        "plan": ["plan", str(zoo), "--rank", "1", "--method", "linear", "--json"],
        "refresh": ["refresh", str(folder / "library.yaml"), "--runner", "inline", "--json"],
        "refresh, nothing new": ["refresh", str(folder / "library.yaml"), "--json"],
        "catalog sql": ["catalog", "sql", "SELECT count(*) FROM adapters", catalog],
        "catalog lineage": ["catalog", "lineage", "--adapter", str(zoo / last), catalog],
        "catalog check": ["catalog", "check", catalog],
    }
    rows = []
    for stage, words in stages.items():
        if wanted and stage not in wanted:
            continue
        found = measured(words)
        rows.append({"adapters": size, "stage": stage, **found})
        print(
            f"{size:8}  {stage:20}{found['cpu_seconds']:9.2f}{found['seconds']:9.2f}"
            f"{found['bytes'] / 1e6:8.0f}",
            flush=True,
        )
    return rows


def measured(words: Sequence[str]) -> dict[str, float]:
    """CPU seconds and memory of one command, in a process between that has no other child."""
    code = (
        "import json, resource, subprocess, sys, time\n"
        "begun = time.perf_counter()\n"
        "done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(json.dumps([done.returncode, used.ru_utime + used.ru_stime,"
        " time.perf_counter() - begun, used.ru_maxrss * 1024]))\n"
    )
    command = [sys.executable, "-m", "lego_ray", *words]
    told = subprocess.run(
        [sys.executable, "-c", code, *command], stdout=subprocess.PIPE, check=True
    )
    status, cpu, wall, size = json.loads(told.stdout)
    if status:
        raise RuntimeError(f"{' '.join(command)} ended with status {status}")
    return {"cpu_seconds": cpu, "seconds": wall, "bytes": size}


def _exponents(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """By stage that takes more of more adapters, the power that CPU time grows with, past start-up."""
    found = {}
    for stage in dict.fromkeys(row["stage"] for row in rows):
        mine = [row for row in rows if row["stage"] == stage]
        least, *others = mine  # what the smallest fleet takes is nearly all start-up
        grew = others and others[-1]["cpu_seconds"] > 1.5 * least["cpu_seconds"]
        if len(others) > 1 and grew:
            more = [max(row["cpu_seconds"] - least["cpu_seconds"], 0.001) for row in others]
            found[stage] = slope([row["adapters"] - least["adapters"] for row in others], more)
    return found


if __name__ == "__main__":
    main()
