"""What a runner is, and the in-process one: the serial twin of every distributed path."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from lego_ray.errors import InvalidOption
from lego_ray.execution.solve import solve_group
from lego_ray.execution.task import GroupResult, GroupTask

RUNNERS = ("ray", "inline")


class Runner(Protocol):
    """Runs tasks wherever it runs them; the results are the same bits in any of them."""

    @property
    def name(self) -> str:
        """The name given on the command line."""

    def run(self, tasks: Iterable[GroupTask]) -> Iterator[GroupResult]:
        """Yields each task's result as it is done, in any order.

        Raises:
            LegoRayError: What a task raised; running tasks are cancelled.
        """


class InlineRunner:
    """Runs tasks one after another in this process."""

    name = "inline"

    def run(self, tasks: Iterable[GroupTask]) -> Iterator[GroupResult]:
        """Yields each task's result, in order."""
        for task in tasks:
            yield solve_group(task)


def make_runner(name: str, *, address: str, workers: int | None, memory_budget: int) -> Runner:
    """Makes a runner.

    Args:
        name: `ray` or `inline`.
        address: Where Ray is: `local` starts one, `auto` joins the running cluster, `ray://...`.
        workers: Most tasks at once; None for one a CPU.
        memory_budget: Most bytes one worker may take.

    Raises:
        InvalidOption: If there is no such runner, or workers is below 1.
    """
    if workers is not None and workers < 1:
        raise InvalidOption("--workers", f"{workers} is below 1")
    if name == "inline":
        return InlineRunner()
    if name == "ray":
        from lego_ray.execution.ray_runner import RayRunner  # Ray takes a second to import

        return RayRunner(address=address, workers=workers, memory_budget=memory_budget)
    raise InvalidOption("--runner", f"{name!r} is not one of {', '.join(RUNNERS)}")
