"""Runs a command and measures it as its user would: wall time, and memory of all its processes."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

from jobs.benchmarks import processes

POLL_SECONDS = 0.1
# To look at large processes takes the kernel a while, and must not slow down what is measured.
SHARE_OF_A_CORE = 0.05


@dataclass(slots=True)
class Peaks:
    """Most memory at any moment looked at, in bytes.

    Attributes:
        all_bytes: Of the whole process tree, shared pages counted once (PSS).
        driver_bytes: Of the command's own process.
        worker_bytes: Of the fattest process named `ray::`, without the object store's pages.
        store_bytes: Pages in use of Ray's object store, wherever they are mapped.
        spilled_bytes: What the object store had moved to disk.
    """

    all_bytes: int = 0
    driver_bytes: int = 0
    worker_bytes: int = 0
    store_bytes: int = 0
    spilled_bytes: int = 0

    def raise_to(self, other: Peaks) -> None:
        """Takes over what is higher in another."""
        for field in fields(self):
            setattr(self, field.name, max(getattr(self, field.name), getattr(other, field.name)))


@dataclass(frozen=True, slots=True)
class Measured:
    """A finished command.

    Attributes:
        seconds: Wall time, start-up included.
        peaks: Most memory it took.
        stdout: What it printed.
    """

    seconds: float
    peaks: Peaks
    stdout: str


def measure(command: list[str]) -> Measured:
    """Runs a command to its end.

    Raises:
        RuntimeError: If it fails; with its stderr.
    """
    started = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    with watched(process.pid) as peaks:
        try:
            stdout, stderr = process.communicate()
            seconds = time.perf_counter() - started
        finally:
            process.terminate()  # if this was interrupted: in a session of its own, it is told by no one
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{stderr}")
    return Measured(seconds, peaks, stdout)


@contextmanager
def watched(root: int) -> Iterator[Peaks]:
    """Watches a process and all below it for the block.

    Args:
        root: Its pid.

    Yields:
        What was the most so far.
    """
    peaks = Peaks()
    done = threading.Event()

    def watch() -> None:
        pause = POLL_SECONDS
        while not done.wait(pause):
            # CPU time: a look that had to wait for a core took nothing from what is measured.
            began = time.thread_time()
            peaks.raise_to(_look(root))
            pause = max(POLL_SECONDS, (time.thread_time() - began) / SHARE_OF_A_CORE)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peaks
    finally:
        done.set()
        watcher.join()


def _look(root: int) -> Peaks:
    now = Peaks()
    for pid in processes.tree(root):
        found = processes.memory(pid)
        now.all_bytes += found.own_bytes + found.shared_bytes
        words = processes.arguments(pid)
        name = words[0] if words else ""
        if pid == root:
            now.driver_bytes = found.own_bytes
        elif name.startswith("ray::"):
            now.worker_bytes = max(now.worker_bytes, found.own_bytes)
        elif name.endswith("/raylet"):
            now.store_bytes += processes.held_shared_memory(pid)
            now.spilled_bytes += processes.spilled(words)
    return now
