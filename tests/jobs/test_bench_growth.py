"""The benchmark of a cluster that grows: its clusters get as many workers as they may, and lose them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECONDS = 560


@pytest.mark.s3
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 20)
def test_a_small_zoo_is_merged_with_each_bound_on_the_workers() -> None:
    words = ["--workers", "1", "2", "--adapters", "2", "--layers", "1", "--late", "0.3"]
    done = subprocess.run(
        [sys.executable, "-m", "jobs.benchmarks.growth", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.stdout, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    rows = said["rows"]
    assert [(row["bound"], row["most"], row["left"]) for row in rows] == [(1, 1, 0), (2, 2, 0)]
    assert said["ratio"] == rows[0]["seconds"] / rows[1]["seconds"]
    # So little work need not be done sooner by two; the exit status says whether it was.
    assert done.returncode == (0 if said["met"] else 1)
    assert said["met"] == (said["ratio"] >= said["aim"])
