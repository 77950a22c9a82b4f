"""The in-process runner: the serial twin of every distributed path."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from queue import SimpleQueue
from threading import BoundedSemaphore, Event, Thread
from typing import TYPE_CHECKING, Any

from lego_ray.lazy import torch
from lego_ray.planning.estimate import cores
from lego_ray.runners.base import READS_BESIDE

if TYPE_CHECKING:
    from lego_ray.tasks.joint import JointTask
    from lego_ray.tasks.read import Extraction
    from lego_ray.tasks.update import UpdateTask
    from lego_ray.tasks.values import SolveTask

    Task = SolveTask | JointTask | UpdateTask
    Extract = Callable[[SolveTask], Extraction]


class InlineRunner:
    """Runs tasks in this process, several at once where all of them fit one worker's memory budget.

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
        self._begun: list[_Work] = []

    def start(self) -> None:
        """Has nothing to get ready."""

    def run(self, tasks: Iterable[Any]) -> Iterator[Any]:
        """Yields each task's result, in order."""
        from lego_ray.tasks.device import device_of

        work = _Work(device_of(self._gpus), self._gpus, self._at_once, self._extract)
        self._begun.append(work)
        running: deque[tuple[Task, Future[Any]]] = deque()
        most = READS_BESIDE * self._at_once
        try:
            for task in tasks:
                while running and (len(running) >= most or not _fit([task, *_tasks(running)])):
                    yield running.popleft()[1].result()
                running.append((task, work.begin(task)))
                if len(running) > work.threads:
                    work.one_more_thread()
            while running:
                yield running.popleft()[1].result()
        finally:
            work.end()

    def stop(self) -> None:
        """Holds nothing."""

    def close(self) -> None:
        """Waits for what was running when a run was cut short: a task a thread, at most."""
        for work in self._begun:
            work.end()  # also of a run that was left half used, and is not closed yet
            work.wait()
        self._begun.clear()


class _Work:
    """Threads and what they have to do, until it is ended."""

    def __init__(self, device: str, gpus: float, at_once: int, extract: Extract | None) -> None:
        self._extract = extract
        self._threads: list[Thread] = []
        self._device = device
        self._gpus = gpus
        self._computing = BoundedSemaphore(at_once)
        self._waiting: SimpleQueue[tuple[Task, Future[Any]] | None] = SimpleQueue()
        self._ended = Event()

    def begin(self, task: Task) -> Future[Any]:
        future: Future[Any] = Future()
        self._waiting.put((task, future))
        return future

    @property
    def threads(self) -> int:
        return len(self._threads)

    def one_more_thread(self) -> None:
        thread = Thread(target=self._live, name=f"tasks-{self.threads + 1}")
        thread.start()
        self._threads.append(thread)

    def end(self) -> None:
        """Lets the threads end. Of what is begun, the step they are at is the last."""
        self._ended.set()
        for _ in self._threads:
            self._waiting.put(None)

    def wait(self) -> None:
        for thread in self._threads:
            thread.join()

    def _live(self) -> None:
        while (next_one := self._waiting.get()) is not None:
            task, future = next_one
            try:
                future.set_result(self._result_of(task))
            except BaseException as error:
                future.set_exception(error)

    def _result_of(self, task: Task) -> Any:
        from lego_ray.tasks.run import run_task
        from lego_ray.tasks.solve import extract_task, solve_extracted
        from lego_ray.tasks.values import SolveTask

        torch.set_num_threads(1)  # of this thread, for what is read before the work
        if task.plan.shards or not isinstance(task, SolveTask):
            with self._at_work():
                return run_task(task, self._gpus)
        self._check()
        extraction = (self._extract or extract_task)(task)
        with self._at_work():
            return solve_extracted(task, extraction, self._device)

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        with self._computing:
            self._check()
            yield

    def _check(self) -> None:
        if self._ended.is_set():
            raise CancelledError


def _tasks(running: Iterable[tuple[Task, Future[Any]]]) -> list[Task]:
    return [task for task, _ in running]


def _fit(tasks: Sequence[Task]) -> bool:
    """Whether tasks may run at once: within the memory that one worker may take."""
    from lego_ray.planning.task_plans import WORKER_BYTES

    if len(tasks) > 1 and any(task.plan.shards for task in tasks):
        return False
    peak = sum(task.plan.peak_bytes - WORKER_BYTES for task in tasks)
    return WORKER_BYTES + peak <= tasks[0].memory_budget
