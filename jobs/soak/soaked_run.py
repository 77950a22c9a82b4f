"""A merge whose workers are killed every few seconds, and its driver once, until it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from signal import SIGKILL
from typing import Any

from jobs.benchmarks import processes
from jobs.benchmarks.measure import Peaks, watched
from jobs.soak.killer import AGENTS, Killer

# The kernel ends what a killed driver started; Ray's own processes notice within seconds.
SECONDS_TO_END = 60.0
POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class SoakedRun:
    """A run that ended well in the end.

    Attributes:
        seconds: Wall time from the first start to the end, the pause after the kill included.
        peaks: Most memory of either driver's processes.
        record: What `--json` printed.
        drivers_killed: Drivers that ended by being killed.
        kept: Sites that were done when the driver was killed.
        retries: Times a task was started again, as far as Ray says.
    """

    seconds: float
    peaks: Peaks
    record: dict[str, Any]
    drivers_killed: int
    kept: int
    retries: int


def soak(
    command: list[str], *, environ: Mapping[str, str], killer: Killer, every: float
) -> SoakedRun:
    """Runs a merge, kills its driver once half of its tasks are done, and runs it again to the end.

    Args:
        command: Arguments of `lego-ray`.
        environ: Environment besides this process's.
        killer: What kills workers on the way.
        every: Seconds between two of them.

    Raises:
        RuntimeError: If a run fails, the first one ends before its time, or leaves processes behind.
    """
    started = time.monotonic()
    peaks = Peaks()
    with _Driver(command, environ) as first:
        with _soaking(first, killer, every, peaks):
            while not first.half_done():
                if first.process.poll() is not None:
                    raise RuntimeError(f"it ended before it was killed: {first.said()}")
                time.sleep(POLL_SECONDS)
            below = processes.tree(first.process.pid)
            first.process.kill()
        first.process.wait()
        _wait_for_end(below)
    with _Driver(command, environ) as second, _soaking(second, killer, every, peaks):
        out = second.finish()
    done = [*first.events("task done"), *second.events("task done")]
    try:
        record = json.loads(out)
    except ValueError as error:
        raise RuntimeError(f"it printed no record but {out!r}: {second.said()}") from error
    return SoakedRun(
        seconds=time.monotonic() - started,
        peaks=peaks,
        record=record,
        drivers_killed=[first.process.returncode, second.process.returncode].count(-SIGKILL),
        kept=sum(task["sites"] for task in first.events("task done")),
        retries=sum(task["retries"] for task in done),
    )


class _Driver:
    """`lego-ray` in a process of its own, what it logs read as it comes."""

    def __init__(self, command: list[str], environ: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lego_ray", *command, "--json", "--log", "json"],
            env={**os.environ, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> _Driver:
        return self

    def __exit__(self, *about: object) -> None:
        self.process.kill()
        self.process.communicate()

    def _read(self) -> None:
        assert self.process.stderr is not None  # asked for above
        for line in self.process.stderr:
            self._lines.append(line)
            print(line, end="", file=sys.stderr, flush=True)

    def said(self) -> str:
        """The end of what it logged."""
        return "".join(self._lines[-20:])

    def events(self, name: str) -> list[dict[str, Any]]:
        """What it logged of one event so far."""
        lines = [json.loads(line) for line in list(self._lines) if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def half_done(self) -> bool:
        """Whether half of its tasks are done and kept."""
        planned = self.events("run planned")
        return bool(planned) and 2 * len(self.events("task done")) >= planned[0]["tasks"]

    def finish(self) -> str:
        """Waits for its end and returns its stdout."""
        assert self.process.stdout is not None  # asked for above
        out = self.process.stdout.read()
        if self.process.wait():
            raise RuntimeError(f"it failed, with {self.process.returncode}: {self.said()}")
        self._reader.join()
        return out


@contextmanager
def _soaking(driver: _Driver, killer: Killer, every: float, peaks: Peaks) -> Iterator[None]:
    """Kills its workers and watches its memory for the block."""
    pid = driver.process.pid
    with watched(pid) as mine, killer.at_work(pid, every):
        yield
    peaks.raise_to(mine)


def _wait_for_end(pids: set[int]) -> None:
    """Waits until processes are gone that a driver left when it was killed, except for Ray's agents.

    Those have nothing of the run, and take a minute to find that their node's servers are gone.
    """
    deadline = time.monotonic() + SECONDS_TO_END
    while left := [title for title in map(_title, pids) if title and title not in AGENTS]:
        if time.monotonic() > deadline:
            raise RuntimeError(f"the driver was killed and left processes behind: {left}")
        time.sleep(POLL_SECONDS)


def _title(pid: int) -> str:
    """How a process begins its command line; empty if it has ended."""
    return next(iter(processes.arguments(pid)), "").strip()
