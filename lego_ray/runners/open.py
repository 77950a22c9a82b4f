"""Runners by name, and the results of their tasks: each open for as long as a block needs it.

Importing this room's runners loads neither torch nor Ray, so that a command line can start Ray while
it still imports the rest.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

from lego_ray.errors import InvalidOption
from lego_ray.options import keywords_of
from lego_ray.planning.options import RUNNER_OPTIONS, RUNNERS, RunOptions
from lego_ray.runners.auto import AutoRunner
from lego_ray.runners.base import Runner
from lego_ray.runners.inline import InlineRunner


@contextmanager
def open_runner(given: str | Runner, options: RunOptions) -> Iterator[Runner]:
    """The runner given; or one made by that name for the block, and closed after it.

    Args:
        given: A runner, or the name of one.
        options: What was asked for; those of `RUNNER_OPTIONS` are for `make_runner`.
    """
    if not isinstance(given, str):
        yield given
        return
    where = {n: v for n, v in options.items() if n in RUNNER_OPTIONS}
    mine = make_runner(given, **where)  # type: ignore[arg-type]
    try:
        yield mine
    finally:
        mine.close()


def make_runner(
    name: str,
    *,
    address: str = "local",
    workers: int | None = None,
    gpus: float = 0.0,
    max_workers: int | None = None,
    wait: float | None = None,
) -> Runner:
    """Makes a runner.

    Args:
        name: `ray`, `inline`, or `auto`: Ray where something is asked of it, by the arguments below or
            by the work, and else `inline`.
        address: Where Ray is: `local` starts one, `auto` joins the running cluster, `ray://...`.
        workers: Most tasks at once; None for one a CPU.
        gpus: Share of a GPU each task takes, such as 0.5 or 1; 0 for none.
        max_workers: Most workers to ask a cluster for; None for one per task.
        wait: Seconds to wait for a node that can hold a task; None for the default.

    Raises:
        InvalidOption: If there is no such runner, workers is below 1, or Ray cannot give that share.
    """
    known = keywords_of(RunOptions)
    given = {"workers": workers, "max_workers": max_workers, "wait": wait, "gpus": gpus}
    for option, value in given.items():
        known[option].check(value)
    if name == "auto":
        if address == "local" and not gpus and workers is max_workers is wait is None:
            return AutoRunner()
        name = "ray"
    if name == "inline":
        return InlineRunner(gpus, workers)
    if name == "ray":
        from lego_ray.runners.ray.runner import RayRunner

        return RayRunner(address, workers, gpus, max_workers=max_workers, wait=wait)
    raise InvalidOption("--runner", f"{name!r} is not one of {', '.join(RUNNERS)}")


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
