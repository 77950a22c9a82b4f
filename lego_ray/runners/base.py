"""What a runner is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, overload, runtime_checkable

if TYPE_CHECKING:
    from lego_ray.tasks.joint import JointResult, JointTask
    from lego_ray.tasks.update import UpdateResult, UpdateTask
    from lego_ray.tasks.values import SolveTask, TaskResult


# Tasks that a core has at once: one waits for its bytes while one computes.
READS_BESIDE = 2


class Runner(Protocol):
    """Runs tasks wherever it runs them; the results are the same bits in any of them."""

    @property
    def name(self) -> str:
        """The name given on the command line."""

    def start(self) -> None:
        """Begins to get ready, without waiting for it. `run` does so by itself."""

    @overload
    def run(self, tasks: Iterable[SolveTask]) -> Iterator[TaskResult]: ...

    @overload
    def run(self, tasks: Iterable[JointTask]) -> Iterator[JointResult]: ...

    @overload
    def run(self, tasks: Iterable[UpdateTask]) -> Iterator[UpdateResult]: ...

    def run(self, tasks: Iterable[Any]) -> Iterator[Any]:
        """Yields each task's result as it is done, in any order. May be called again.

        Raises:
            LegoRayError: What a task raised; running tasks are canceled.
        """

    def stop(self) -> None:
        """Begins to let go of what it holds, without waiting for it; nothing may be run after."""

    def close(self) -> None:
        """Stops, and waits until everything it started has ended."""


@runtime_checkable
class KnowsProcesses(Protocol):
    """A runner on what many processes use, and which knows which of them have ended."""

    def presence(self) -> Mapping[str, str]:
        """What this process is known by there; empty if others cannot ask. Waits until it is.

        From then on, this process is known until `close`, whatever `stop` lets go of.
        """

    def has_ended(self, presence: Mapping[str, str]) -> bool:
        """Whether the process with a presence is known to have ended; False if that is not known."""
