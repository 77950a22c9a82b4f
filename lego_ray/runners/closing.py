"""Results of tasks, for as long as they are wanted."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

from lego_ray.runners.base import Runner


@contextmanager
def closing_results(runner: Runner, tasks: Iterable[Any]) -> Iterator[Iterator[Any]]:
    """Results of some tasks; if there are none, nothing is run.

    An error in the block cancels what is running at once, not when the last reference to it is gone.

    Args:
        runner: What runs them.
        tasks: Tasks of one kind, as `Runner.run` accepts them.
    """
    waiting = iter(tasks)
    first = next(waiting, None)
    results: Iterator[Any] = iter(()) if first is None else runner.run(chain([first], waiting))
    try:
        yield results
    finally:
        if isinstance(results, Generator):
            results.close()
