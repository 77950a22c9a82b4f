"""Threads that do tasks: here, or in another process while the thread waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from queue import SimpleQueue
from threading import BoundedSemaphore, Event, Thread
from typing import TYPE_CHECKING, Any

from lego_ray.lazy import torch
from lego_ray.runners.task_process import ProcessEnded, TaskProcess

if TYPE_CHECKING:
    from lego_ray.tasks.joint import JointTask
    from lego_ray.tasks.read import Extraction
    from lego_ray.tasks.update import UpdateTask
    from lego_ray.tasks.values import SolveTask

    Task = SolveTask | JointTask | UpdateTask
    Extract = Callable[[SolveTask], Extraction]


class TaskThreads:
    """Threads and what they have to do, until they are ended."""

    def __init__(
        self,
        gpus: float,
        at_once: int,
        extract: Extract | None = None,
        processes: Sequence[TaskProcess] = (),
    ) -> None:
        """Starts no thread yet.

        Args:
            gpus: Above 0 for the GPU.
            at_once: Most tasks that compute in this process at once.
            extract: What extracts a task; None for `solve.extract_task`.
            processes: Others that do tasks; they end by themselves.
        """
        from lego_ray.tasks.device import device_of

        self._extract = extract
        self._threads: list[Thread] = []
        self._device = device_of(gpus)
        self._gpus = gpus
        self._computing = BoundedSemaphore(at_once)
        self._waiting: SimpleQueue[tuple[Task, Future[Any]] | None] = SimpleQueue()
        self._ended = Event()
        self._processes = processes

    def begin(self, task: Task) -> Future[Any]:
        """Has a task done; the future has its result, or its error."""
        future: Future[Any] = Future()
        self._waiting.put((task, future))
        return future

    def __len__(self) -> int:
        return len(self._threads)

    def one_more(self) -> None:
        """Starts a thread: by turns one for this process, and one for each of the others."""
        number = len(self._threads)
        turn = number % (1 + len(self._processes))
        elsewhere = self._processes[turn - 1] if turn else None
        thread = Thread(target=self._live, args=(elsewhere,), name=f"tasks-{number + 1}")
        thread.start()
        self._threads.append(thread)

    def end(self) -> None:
        """Lets the threads end. Of what is begun, the step they are at is the last."""
        self._ended.set()
        for _ in self._threads:
            self._waiting.put(None)

    def wait(self) -> None:
        """Waits until they have ended."""
        for thread in self._threads:
            thread.join()

    def _live(self, elsewhere: TaskProcess | None) -> None:
        while (next_one := self._waiting.get()) is not None:
            task, future = next_one
            try:
                future.set_result(self._result_of(task, elsewhere))
            except BaseException as error:
                future.set_exception(error)

    def _result_of(self, task: Task, elsewhere: TaskProcess | None) -> Any:
        if elsewhere is not None:
            self._check()
            try:
                return elsewhere.run(task)
            except ProcessEnded:
                self._check()  # else it died, perhaps for its memory, and the task is done here
        return self._result_here(task)

    def _result_here(self, task: Task) -> Any:
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
