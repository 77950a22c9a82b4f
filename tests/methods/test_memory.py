"""What a plan asks for is what a method takes: else a worker outgrows the memory that it was given."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from lego_ray.methods.names import METHODS

# MiB: code and buffers that the first use of a kernel loads.
SLACK = 20
# Else the C library keeps freed blocks of up to 32 MiB, and how many depends on what ran before: `knots`
# took 230 to 360 MiB.
GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": f"{1 << 20}", "MALLOC_TRIM_THRESHOLD_": f"{1 << 20}"}
# `ctm` alone takes a minute of iterations here.
NAMES = [name for name in METHODS if name != "ctm"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_method_takes_more_memory_than_its_plan_asks_for() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.methods.peaks", *NAMES],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **GIVES_BACK},
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == 2 * len(NAMES)
    assert [each for each in found if each[2] > each[3] + SLACK] == []
