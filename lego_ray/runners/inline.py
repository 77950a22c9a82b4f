"""The runner of this machine without Ray: the serial twin of every distributed path."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Any

from lego_ray.planning.estimate import cores, plans_of
from lego_ray.planning.task_plans import WORKER_BYTES
from lego_ray.runners.base import READS_BESIDE
from lego_ray.runners.task_process import TaskProcess
from lego_ray.runners.task_threads import TaskThreads

if TYPE_CHECKING:
    from lego_ray.runners.task_threads import Extract, Task

# Seconds of arithmetic from which processes beside this one pay for loading torch, each on its core.
PROCESSES_PAY = 4.0


class InlineRunner:
    """Runs tasks in this process, several at once where all of them fit one worker's memory budget.

    Where the work is worth it, other processes on this machine do tasks too, within the same budget.

    Each task computes on one thread, as it does in a worker on Ray, so the results are the same bits.
    The shards of a spread site are all held here and work one after another: the serial twin of actors.
    """

    name = "inline"

    def __init__(
        self,
        gpus: float = 0.0,
        workers: int | None = None,
        *,
        extract: Extract | None = None,
    ) -> None:
        """Describes how the arithmetic is done.

        Args:
            gpus: Above 0 for the GPU, which has one task at a time.
            workers: Most tasks that compute at once; None for one a CPU.
            extract: What extracts a task, such as `ReadCache.extract`; None for `solve.extract_task`.
        """
        self._extract = extract
        self._gpus = gpus
        self._at_once = 1 if gpus else workers or cores()
        self._begun: list[TaskThreads] = []
        self._processes: list[TaskProcess] = []

    def start(self) -> None:
        """Has nothing to get ready."""

    def run(self, tasks: Iterable[Any]) -> Iterator[Any]:
        """Yields each task's result, in order."""
        waiting = iter(tasks)
        first = self._start_processes(waiting)
        processes = list(self._processes)
        work = TaskThreads(
            self._gpus, self._at_once - len(processes), extract=self._extract, processes=processes
        )
        self._begun.append(work)
        running: deque[tuple[Task, Future[Any]]] = deque()
        most = READS_BESIDE * self._at_once
        try:
            for task in chain(first, waiting):
                if processes and not _fit([task], 1 + len(processes)):
                    processes = []  # the memory budget holds this task alone
                    self._end_processes()
                while running and (
                    len(running) >= most or not _fit([task, *_tasks(running)], 1 + len(processes))
                ):
                    yield running.popleft()[1].result()
                running.append((task, work.begin(task)))
                if len(running) > len(work):
                    work.one_more()
            while running:
                yield running.popleft()[1].result()
        finally:
            work.end()
            if running:  # it was cut short
                self._end_processes()

    def stop(self) -> None:
        """Holds nothing."""

    def close(self) -> None:
        """Waits for what was running when a run was cut short: a task a thread, at most."""
        self._end_processes()
        for work in self._begun:
            work.end()  # also of a run that was left half used, and is not closed yet
            work.wait()
        self._begun.clear()

    def _start_processes(self, tasks: Iterator[Task]) -> list[Task]:
        """Starts processes if the work is worth them, or keeps those there are.

        Returns:
            The tasks that were looked at for it, to be done first.
        """
        first: list[Task] = []
        seconds = 0.0
        if self._at_once == 1 or self._gpus or self._extract is not None:
            return first
        for task in tasks:
            first.append(task)
            seconds += sum(site.seconds for plan in plans_of(task) for site in plan.sites)
            if seconds >= PROCESSES_PAY or task.plan.shards:
                break
        if seconds >= PROCESSES_PAY and not self._processes:
            # Half of the memory at most is for what a process takes before it has read anything.
            room = first[0].memory_budget // (2 * WORKER_BYTES) - 1
            with suppress(OSError):  # the system starts no more
                for _ in range(min(self._at_once - 1, room)):
                    self._processes.append(TaskProcess())
        return first

    def _end_processes(self) -> None:
        while self._processes:
            self._processes.pop().close()


def _tasks(running: Iterable[tuple[Task, Future[Any]]]) -> list[Task]:
    return [task for task, _ in running]


def _fit(tasks: Sequence[Task], processes: int) -> bool:
    """Whether tasks may run at once: within the memory that one worker may take."""
    if len(tasks) > 1 and any(task.plan.shards for task in tasks):
        return False
    peak = sum(task.plan.peak_bytes - WORKER_BYTES for task in tasks)
    return processes * WORKER_BYTES + peak <= tasks[0].memory_budget
