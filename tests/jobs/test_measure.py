"""What a measured command took."""

import sys

import pytest

from jobs.measure import measure

MEBIBYTE = 2**20
# Sampled ten times a second, so the memory must be held for a few samples.
HOLD = "import time; held = bytearray({size}); held[:] = b'x' * {size}; time.sleep(1.5)"
CHILD = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]], check=True)"


def test_memory_is_that_of_the_whole_tree() -> None:
    size = 64 * MEBIBYTE
    found = measure([sys.executable, "-c", CHILD, HOLD.format(size=size)])
    assert found.seconds >= 1.5
    assert found.peaks.all_bytes >= size
    assert found.peaks.driver_bytes < size
    assert found.peaks.worker_bytes == 0
    assert found.peaks.store_bytes == 0


def test_a_failure_is_told_with_its_stderr() -> None:
    with pytest.raises(RuntimeError, match="no such thing"):
        measure([sys.executable, "-c", "raise SystemExit('no such thing')"])
