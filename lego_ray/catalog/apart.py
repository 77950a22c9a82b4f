"""Runs a function in a separate process that can be ended: by a time limit, a memory limit, or ^C.

DuckDB looks at an interrupt only between its vectors, and its own memory limit leaves out what a single
function allocates, so neither stops every query. A process can always be killed.

What answers takes half a second to import. So on Linux the process that is started imports it and forks
a process for each call, and waits for the next one (`answering`).
"""

from __future__ import annotations

import atexit
import os
import pickle
import signal
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from lego_ray.catalog.answering import FORKS, OUT_OF_MEMORY, UNUSED, Surroundings
from lego_ray.errors import LegoRayError, QueryError, RunFailed
from lego_ray.pipes import closed, import_path, kill, receive, send, start_python

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a separate process may take.

    Attributes:
        what: What it answers, for errors, such as `query`.
        seconds: The longest it may take, its imports included; None for no limit.
        memory: Most bytes it may allocate, its imports included. Enforced by the kernel on Linux; other
            systems have no such limit for memory that is mapped.
    """

    what: str
    seconds: float | None
    memory: int


def run_apart(limits: Limits, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls a function of a module in a separate process, and returns what it returns.

    The process ends when this call ends, whatever ends it, and when this process ends. What it was
    forked from ends with it or, after an answer, waits a minute for the next call.

    Args:
        limits: What the process may take.
        function: A function that pickle finds by its name.
        args: What it is called with; pickled.
        kwargs: As `args`.

    Raises:
        QueryError: If it takes longer, or needs more memory.
        LegoRayError: Whatever the function raises of this family.
        RunFailed: If it raises anything else, or its process ends without an answer.
    """
    what, seconds, memory = limits.what, limits.seconds, limits.memory
    call = (Surroundings.here(), memory, function, args, kwargs)
    late = threading.Event()
    kept = _taken()
    answer, status = _answer(kept or _started(what), call, seconds, late)
    if kept and answer is None and not late.is_set() and status in (UNUSED, -signal.SIGKILL):
        # It had ended, or was killed. If the system kills it for its memory, it kills the next one too.
        answer, status = _answer(_started(what), call, seconds, late)
    if answer is not None:
        kind, value = answer
        if kind == "returned":
            return value  # type: ignore[no-any-return]
        if isinstance(value, LegoRayError):
            raise value
        if kind == "out of memory":
            raise _too_large(what, memory)
        raise RunFailed(what, f"it failed with {value}")
    if late.is_set():
        raise QueryError(
            what,
            f"it takes longer than {seconds:g} seconds",
            "Ask for less, or raise the time limit.",
        )
    # Whatever a library does when an allocation fails: raise, abort, or use the null pointer.
    if status == OUT_OF_MEMORY or -(status or 0) in (
        signal.SIGABRT,
        signal.SIGSEGV,
        signal.SIGBUS,
        signal.SIGKILL,
    ):
        raise _too_large(what, memory)
    raise RunFailed(what, f"the process that ran it ended with status {status}")


@dataclass(frozen=True, slots=True)
class _Parent:
    """A process that answers, the import path it was started with, and the process that asks."""

    process: subprocess.Popen[bytes]
    path: list[str]
    asker: int

    def end(self) -> None:
        """Ends it with what it has forked."""
        kill(self.process)

    def closed(self) -> int:
        """Its exit status, once it has ended and its pipes are closed."""
        return closed(self.process)


# One that waits for the next call.
_idle: list[_Parent] = []


@atexit.register
def _end_the_idle() -> None:
    while _idle:
        parent = _idle.pop()
        if parent.asker == os.getpid():
            parent.closed()


def _taken() -> _Parent | None:
    """The parent that waits, if there is one and it would answer as one started now."""
    try:
        parent = _idle.pop()
    except IndexError:
        return None
    if parent.asker != os.getpid():  # this process was forked from the one that started it
        return None
    if parent.process.poll() is None and parent.path == import_path():
        return parent
    parent.closed()
    return None


def _answer(
    parent: _Parent, call: tuple[Any, ...], seconds: float | None, late: threading.Event
) -> tuple[tuple[str, Any] | None, int | None]:
    """The answer to a call, and the exit status of the parent if there is none."""

    def end() -> None:
        late.set()
        parent.end()

    timer = threading.Timer(seconds, end) if seconds is not None else None
    answer: tuple[str, Any] | None = None
    try:
        if timer:
            timer.daemon = True
            timer.start()
        assert parent.process.stdin is not None
        assert parent.process.stdout is not None
        send(parent.process.stdin, call)
        answer = receive(parent.process.stdout)
    except (EOFError, OSError, pickle.UnpicklingError):
        pass  # there is no answer; the exit status says why
    finally:
        if timer:
            timer.cancel()
        # After an answer cut short, or none, what is in its pipes is of no use.
        keep = FORKS and answer is not None and not late.is_set() and not _idle
        if keep:
            _idle.append(parent)
        status = None if keep else parent.closed()
    return answer, status


def _started(what: str) -> _Parent:
    path = import_path()
    try:
        process = start_python("lego_ray.catalog.answering", quiet=True)
    except OSError as error:
        raise RunFailed(
            what,
            f"no process could be started to run it: {error}",
            "Run again when this machine has fewer processes, or more memory.",
        ) from error
    return _Parent(process, path, os.getpid())


def _too_large(what: str, memory: int) -> QueryError:
    return QueryError(
        what,
        f"it needs more memory than the {memory / 2**30:.3g} GiB that its process may take",
        "Ask for fewer rows or columns, or for aggregates.",
    )
