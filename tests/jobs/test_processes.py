"""What is read of processes is right whatever they are called, and whenever they end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from jobs.benchmarks import processes

pytestmark = pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="reads /proc")


def ended() -> int:
    """The pid of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_of_a_process_that_has_ended_there_is_nothing() -> None:
    pid = ended()
    assert processes.tree(pid) == {pid}
    assert processes.arguments(pid) == []
    assert processes.title(pid) == ""
    assert processes.memory(pid) == processes.Memory()
    assert processes.held_shared_memory(pid) == 0


def test_one_that_its_parent_has_not_asked_after_has_no_title() -> None:
    with subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read()  # it has closed it, so it ends or has ended
        while processes.title(process.pid):
            pass
        assert process.pid in processes.tree(os.getpid())
        assert processes.memory(process.pid) == processes.Memory()
        assert processes.held_shared_memory(process.pid) == 0


def test_a_name_may_be_any_bytes() -> None:
    command: list[str | bytes] = ["sleep", b"600"]
    with subprocess.Popen([b"\xff ) 1 (\xfe", *command[1:]], executable="sleep") as process:
        try:
            while processes.title(process.pid) != os.fsdecode(b"\xff ) 1 (\xfe"):
                pass
            assert process.pid in processes.tree(os.getpid())
        finally:
            process.kill()


def test_they_may_end_while_all_of_them_are_read() -> None:
    done = threading.Event()

    def come_and_go() -> None:
        while not done.is_set():
            running = [subprocess.Popen(["true"]) for _ in range(8)]
            for each in running:
                each.wait()

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        seen: set[int] = set()
        while len(seen) < 24:
            for pid in processes.tree(os.getpid()):
                processes.title(pid)
                processes.memory(pid)
                processes.held_shared_memory(pid)
                seen.add(pid)
    finally:
        done.set()
        thread.join()
