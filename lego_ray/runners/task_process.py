"""A process that does tasks beside this one.

Threads share Python's lock, and a task is thousands of short calls: on two cores, two threads do tasks
1.3 times as fast as one. Two processes do them twice as fast. Each loads torch first.
"""

from __future__ import annotations

import contextlib
import logging
from concurrent.futures import Future
from threading import Lock, Thread
from typing import Any

from lego_ray.journal import note
from lego_ray.pipes import closed, kill, receive, send, start_python


class ProcessEnded(Exception):
    """The process ended before it answered."""


class TaskProcess:
    """A process that does the tasks it is sent, of which one computes while another is read.

    It ends with this process, whatever ends that.
    """

    def __init__(self) -> None:
        """Starts it; it loads torch while this process goes on.

        Raises:
            OSError: If the system starts no process.
        """
        self._process = start_python("lego_ray.runners.task_server", quiet=False)
        self._asked: dict[int, Future[tuple[bool, Any]]] = {}
        self._count = 0
        self._lock = Lock()
        self._sending = Lock()
        self._ended = False  # no answer comes any more
        self._unwanted = False
        self._answers = Thread(target=self._take_answers, name="answers", daemon=True)
        self._answers.start()

    def run(self, task: Any) -> Any:
        """A task's result, once it is done. Several threads may ask at once.

        Raises:
            ProcessEnded: If the process ended first.
            BaseException: What the task raised.
        """
        answer: Future[tuple[bool, Any]] = Future()
        with self._lock:
            if self._ended:
                raise ProcessEnded
            self._count += 1
            number = self._count
            self._asked[number] = answer
        with contextlib.suppress(OSError, ValueError), self._sending:  # it has ended: see below
            assert self._process.stdin is not None
            send(self._process.stdin, (number, task))
        done, value = answer.result()
        if not done:
            raise value
        return value

    def close(self) -> None:
        """Ends it; what it was asked is not answered."""
        self._unwanted = True
        kill(self._process)
        self._answers.join()
        closed(self._process)

    def _take_answers(self) -> None:
        assert self._process.stdout is not None
        try:
            while True:
                number, done, value = receive(self._process.stdout)
                with self._lock:
                    answer = self._asked.pop(number)
                answer.set_result((done, value))
        except Exception as error:  # it ended, or what it sent is not an answer
            with self._lock:
                self._ended = True
                lost, self._asked = list(self._asked.values()), {}
            if not self._unwanted:
                self._say_so(error, len(lost))
            for answer in lost:
                answer.set_exception(ProcessEnded())

    def _say_so(self, error: Exception, tasks: int) -> None:
        kill(self._process)
        status = self._process.wait()
        reason = f"exit status {status}" if isinstance(error, EOFError) else repr(error)
        note("process lost", "", logging.WARNING, reason=reason, tasks_done_here=tasks)
