"""What a measured command took."""

import subprocess
import sys

import pytest

from jobs.benchmarks.measure import measure, watched

MEBIBYTE = 2**20
# Holds its memory until it is told to end.
HOLD = "import sys; held = bytearray({size}); held[:] = b'x' * {size}; sys.stdin.read()"
CHILD = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]], check=True)"


def test_memory_is_that_of_the_whole_tree() -> None:
    size = 64 * MEBIBYTE
    command = [sys.executable, "-c", CHILD, HOLD.format(size=size)]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE) as process,
        watched(process.pid) as peaks,
    ):
        while peaks.all_bytes < size and process.poll() is None:
            pass
        assert process.stdin is not None
        process.stdin.close()
    assert process.returncode == 0
    assert peaks.all_bytes >= size
    assert 0 < peaks.driver_bytes < size
    assert peaks.worker_bytes == 0
    assert peaks.store_bytes == 0


def test_what_a_command_prints_is_kept() -> None:
    found = measure([sys.executable, "-c", "print('done')"])
    assert found.stdout == "done\n"
    assert found.seconds > 0


def test_a_failure_is_told_with_its_stderr() -> None:
    with pytest.raises(RuntimeError, match="no such thing"):
        measure([sys.executable, "-c", "raise SystemExit('no such thing')"])
