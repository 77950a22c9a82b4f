"""What a runner is, and the in-process one: the serial twin of every distributed path.

Importing this room's runners loads neither torch nor Ray, so that a command line can start Ray while
it still imports the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, overload

from lego_ray.errors import InvalidOption

if TYPE_CHECKING:
    from lego_ray.execution.extract import Extraction
    from lego_ray.execution.task import GroupResult, GroupTask, SharedResult, SharedTask
    from lego_ray.execution.update_task import UpdateResult, UpdateTask

RUNNERS = ("ray", "inline")


class Runner(Protocol):
    """Runs tasks wherever it runs them; the results are the same bits in any of them."""

    @property
    def name(self) -> str:
        """The name given on the command line."""

    def start(self) -> None:
        """Begins to get ready, without waiting for it. `run` does so by itself."""

    @overload
    def run(self, tasks: Iterable[GroupTask]) -> Iterator[GroupResult]: ...

    @overload
    def run(self, tasks: Iterable[SharedTask]) -> Iterator[SharedResult]: ...

    @overload
    def run(self, tasks: Iterable[UpdateTask]) -> Iterator[UpdateResult]: ...

    def run(self, tasks: Iterable[Any]) -> Iterator[Any]:
        """Yields each task's result as it is done, in any order. May be called again.

        Raises:
            LegoRayError: What a task raised; running tasks are cancelled.
        """

    def stop(self) -> None:
        """Begins to let go of what it holds, without waiting for it; nothing may be run after."""

    def close(self) -> None:
        """Stops, and waits until everything it started has ended."""


class InlineRunner:
    """Runs tasks one after another in this process, the next one's reads beside this one's work.

    A spread site's shards are all held here, one after another at work: the serial twin of actors.
    """

    name = "inline"

    def __init__(self, gpus: float = 0.0) -> None:
        """Describes where the arithmetic is done: gpus above 0 for the GPU."""
        self._gpus = gpus

    def start(self) -> None:
        """Has nothing to get ready."""

    def run(self, tasks: Iterable[Any]) -> Iterator[Any]:
        """Yields each task's result, in order."""
        import torch

        from lego_ray.execution.device import device_of
        from lego_ray.execution.sharing import run_task
        from lego_ray.execution.solve import (
            extract_group,
            one_thread,
            solve_extracted,
        )
        from lego_ray.execution.task import GroupTask

        device = device_of(self._gpus)
        reader = ThreadPoolExecutor(
            max_workers=1,
            thread_name_prefix="read-ahead",
            initializer=torch.set_num_threads,
            initargs=(1,),
        )
        with one_thread(), reader:
            ahead: Future[Extraction] | None = None
            for task, following in _with_next(tasks):
                if task.group.shards or not isinstance(task, GroupTask):
                    yield run_task(task, self._gpus)
                    continue
                extraction = ahead.result() if ahead else extract_group(task)
                ahead = None
                if following and _fit_together(task, following):
                    ahead = reader.submit(extract_group, following)
                yield solve_extracted(task, extraction, device)

    def stop(self) -> None:
        """Holds nothing."""

    def close(self) -> None:
        """Holds nothing."""


def _fit_together(task: GroupTask, following: GroupTask) -> bool:
    """Whether one task's work and the next one's reads are within the memory budget."""
    from lego_ray.planning.plan import WORKER_BYTES

    both = task.group.peak_bytes + following.group.peak_bytes - WORKER_BYTES
    return not following.group.shards and both <= task.memory_budget


def _with_next(tasks: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Each task with the one after it, None for the last."""
    waiting = None
    for task in tasks:
        if waiting is not None:
            yield waiting, task
        waiting = task
    if waiting is not None:
        yield waiting, None


@contextmanager
def running(given: str | Runner, **where: Any) -> Iterator[Runner]:
    """The runner given; or one made by that name for the block, and closed after it.

    Args:
        given: A runner, or the name of one.
        where: As for `make_runner`.
    """
    if not isinstance(given, str):
        yield given
        return
    mine = make_runner(given, **where)
    try:
        yield mine
    finally:
        mine.close()


def make_runner(
    name: str, *, address: str = "local", workers: int | None = None, gpus: float = 0.0
) -> Runner:
    """Makes a runner.

    Args:
        name: `ray` or `inline`.
        address: Where Ray is: `local` starts one, `auto` joins the running cluster, `ray://...`.
        workers: Most tasks at once; None for one a CPU.
        gpus: Share of a GPU each task takes, such as 0.5 or 1; 0 for none.

    Raises:
        InvalidOption: If there is no such runner, workers is below 1, or Ray cannot give that share.
    """
    if workers is not None and workers < 1:
        raise InvalidOption("--workers", f"{workers} is below 1")
    if gpus < 0 or (gpus > 1 and gpus != int(gpus)):
        raise InvalidOption("--gpus", f"{gpus:g} is neither a share from 0 to 1 nor a whole number")
    if name == "inline":
        return InlineRunner(gpus)
    if name == "ray":
        from lego_ray.execution.on_ray.runner import RayRunner

        return RayRunner(address=address, workers=workers, gpus=gpus)
    raise InvalidOption("--runner", f"{name!r} is not one of {', '.join(RUNNERS)}")
