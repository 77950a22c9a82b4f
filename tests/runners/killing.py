"""Finds and kills Ray's processes below this one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from jobs.benchmarks import processes
from jobs.soak.killer import Killer

# A call of an actor takes milliseconds; this finds it under way.
POLL_SECONDS = 0.005


@contextlib.contextmanager
def killing(title: str, times: int) -> Iterator[list[int]]:
    """Kills processes below this one as they show a title, such as `ray::ShardActor.call`.

    Args:
        title: What the process's title begins with.
        times: Most processes to kill.

    Yields:
        The pids killed so far.
    """
    killer = Killer(most=times, title=title)
    with killer.at_work(os.getpid(), every=POLL_SECONDS):
        yield killer.pids


def titled(title: str, below: int | None = None) -> list[int]:
    """Processes below one, or below this one, whose title begins so."""
    top = os.getpid() if below is None else below
    return [pid for pid in processes.tree(top) if processes.title(pid).startswith(title)]
