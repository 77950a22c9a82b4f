"""What a runner is, and the in-process one: the serial twin of every distributed path.

Importing this room's runners loads neither torch nor Ray, so that a command line can start Ray while
it still imports the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

from lego_ray.errors import InvalidOption

if TYPE_CHECKING:
    from lego_ray.execution.task import GroupResult, GroupTask

RUNNERS = ("ray", "inline")


class Runner(Protocol):
    """Runs tasks wherever it runs them; the results are the same bits in any of them."""

    @property
    def name(self) -> str:
        """The name given on the command line."""

    def start(self) -> None:
        """Begins to get ready, without waiting for it. `run` does so by itself."""

    def run(self, tasks: Iterable[GroupTask]) -> Iterator[GroupResult]:
        """Yields each task's result as it is done, in any order. May be called again.

        Raises:
            LegoRayError: What a task raised; running tasks are cancelled.
        """

    def stop(self) -> None:
        """Begins to let go of what it holds, without waiting for it; nothing may be run after."""

    def close(self) -> None:
        """Stops, and waits until everything it started has ended."""


class InlineRunner:
    """Runs tasks one after another in this process."""

    name = "inline"

    def start(self) -> None:
        """Has nothing to get ready."""

    def run(self, tasks: Iterable[GroupTask]) -> Iterator[GroupResult]:
        """Yields each task's result, in order."""
        from lego_ray.execution.solve import solve_group

        for task in tasks:
            yield solve_group(task)

    def stop(self) -> None:
        """Holds nothing."""

    def close(self) -> None:
        """Holds nothing."""


def make_runner(name: str, *, address: str = "local", workers: int | None = None) -> Runner:
    """Makes a runner.

    Args:
        name: `ray` or `inline`.
        address: Where Ray is: `local` starts one, `auto` joins the running cluster, `ray://...`.
        workers: Most tasks at once; None for one a CPU.

    Raises:
        InvalidOption: If there is no such runner, or workers is below 1.
    """
    if workers is not None and workers < 1:
        raise InvalidOption("--workers", f"{workers} is below 1")
    if name == "inline":
        return InlineRunner()
    if name == "ray":
        from lego_ray.execution.ray_runner import RayRunner

        return RayRunner(address=address, workers=workers)
    raise InvalidOption("--runner", f"{name!r} is not one of {', '.join(RUNNERS)}")
