"""The in-process runner: the serial twin of every distributed path."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lego_ray.tasks.read import Extraction
    from lego_ray.tasks.values import SolveTask


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

        from lego_ray.tasks.device import device_of
        from lego_ray.tasks.run import run_task
        from lego_ray.tasks.solve import (
            extract_task,
            one_thread,
            solve_extracted,
        )
        from lego_ray.tasks.values import SolveTask

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
                if task.plan.shards or not isinstance(task, SolveTask):
                    yield run_task(task, self._gpus)
                    continue
                extraction = ahead.result() if ahead else extract_task(task)
                ahead = None
                if following and _fit_together(task, following):
                    ahead = reader.submit(extract_task, following)
                yield solve_extracted(task, extraction, device)

    def stop(self) -> None:
        """Holds nothing."""

    def close(self) -> None:
        """Holds nothing."""


def _fit_together(task: SolveTask, following: SolveTask) -> bool:
    """Whether one task's work and the next one's reads are within the memory budget."""
    from lego_ray.planning.plan import WORKER_BYTES

    both = task.plan.peak_bytes + following.plan.peak_bytes - WORKER_BYTES
    return not following.plan.shards and both <= task.memory_budget


def _with_next(tasks: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Each task with the one after it, None for the last."""
    waiting = None
    for task in tasks:
        if waiting is not None:
            yield waiting, task
        waiting = task
    if waiting is not None:
        yield waiting, None
