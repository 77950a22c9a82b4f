"""The process that does tasks for another; see `task_process`."""

from __future__ import annotations

import os
import pickle
from concurrent.futures import Future
from functools import partial
from threading import Lock
from typing import IO, Any, NoReturn

from lego_ray.errors import RunFailed
from lego_ray.pipes import receive, send
from lego_ray.runners.base import READS_BESIDE


def serve() -> NoReturn:
    """Takes tasks from stdin, answers each on stdout, and ends when stdin does."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get into an answer
    tasks = os.fdopen(os.dup(0), "rb")
    from lego_ray.runners.task_threads import TaskThreads

    threads, answering = TaskThreads(0.0, 1), Lock()
    for _ in range(READS_BESIDE):
        threads.one_more()
    try:
        while True:
            number, task = receive(tasks)
            threads.begin(task).add_done_callback(partial(_answer, out, answering, number))
    except EOFError:
        os._exit(0)  # nobody wants what is still being done


def _answer(out: IO[bytes], answering: Lock, number: int, done: Future[Any]) -> None:
    error = done.exception()
    value = done.result() if error is None else _that_travels(error)
    try:
        with answering:
            send(out, (number, error is None, value))
    except OSError:
        os._exit(0)  # nobody listens


def _that_travels(error: BaseException) -> BaseException:
    """The error, or one that says the same and can be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RunFailed("a task", f"it failed with {type(error).__name__}: {error}")
    return error
