"""Kills Ray's processes in the middle of their work, as a machine would: from outside, by SIGKILL."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator

from jobs.benchmarks import processes

# A call of an actor takes milliseconds; this finds it under way.
POLL_SECONDS = 0.005
# To list all processes takes about as long, so that is done now and then: workers live for seconds.
LIST_SECONDS = 0.1


@contextlib.contextmanager
def killing(title: str, times: int) -> Iterator[list[int]]:
    """Kills processes below this one as they show a title, such as `ray::ShardActor.call`.

    Args:
        title: What the process's title begins with.
        times: Most processes to kill.

    Yields:
        The pids killed so far.
    """
    killed: list[int] = []
    done = threading.Event()

    def hunt() -> None:
        below, listed = set[int](), 0.0
        while not done.wait(POLL_SECONDS) and len(killed) < times:
            if time.monotonic() - listed > LIST_SECONDS:
                below, listed = processes.tree(os.getpid()), time.monotonic()
            for pid in below.difference(killed):
                if processes.title(pid).startswith(title):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                        killed.append(pid)
                    break  # one at a time, so that each was under way when it was hit

    hunter = threading.Thread(target=hunt)
    hunter.start()
    try:
        yield killed
    finally:
        done.set()
        hunter.join()


def titled(title: str, below: int | None = None) -> list[int]:
    """Processes below one, or below this one, whose title begins so."""
    top = os.getpid() if below is None else below
    return [pid for pid in processes.tree(top) if processes.title(pid).startswith(title)]
