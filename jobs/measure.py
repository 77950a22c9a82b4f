"""Runs a command and measures it as its user would: wall time, and memory of all its processes."""

from __future__ import annotations

import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Measured:
    """A finished command.

    Attributes:
        seconds: Wall time, start-up included.
        peak_bytes: Most memory its process tree had at once, shared pages counted once (PSS).
        stdout: What it printed.
    """

    seconds: float
    peak_bytes: int
    stdout: str


def measure(command: list[str]) -> Measured:
    """Runs a command to its end.

    Raises:
        RuntimeError: If it fails; with its stderr.
    """
    peak = 0
    done = threading.Event()
    started = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )

    def watch() -> None:
        nonlocal peak
        while not done.wait(POLL_SECONDS):
            peak = max(peak, _tree_bytes(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    stdout, stderr = process.communicate()
    seconds = time.perf_counter() - started
    done.set()
    watcher.join()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{stderr}")
    return Measured(seconds, peak, stdout)


def _tree_bytes(root: int) -> int:
    """PSS of a process and all below it; Ray's workers are children of its raylet."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # ended while we looked
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    tree, grown = {root}, True
    while grown:
        below = {pid for pid, parent in parents.items() if parent in tree} - tree
        grown = bool(below)
        tree |= below
    return sum(map(_pss, tree))


def _pss(pid: int) -> int:
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    line = next((line for line in rollup.splitlines() if line.startswith("Pss:")), "Pss: 0 kB")
    return int(line.split()[1]) * 1024
