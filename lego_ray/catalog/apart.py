"""Runs a function in a separate process that can be ended: by a time limit, a memory limit, or ^C.

DuckDB looks at an interrupt only between its vectors, and its own memory limit leaves out what a single
function allocates, so neither stops every query. A process can always be killed.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, NoReturn, ParamSpec, TypeVar

from lego_ray.errors import LegoRayError, QueryError, RunFailed
from lego_ray.faults import of_the_machine

P = ParamSpec("P")
T = TypeVar("T")

# The child takes the import path of this process, not the working directory's.
_BOOT = """\
import pickle, sys
sys.path[:] = pickle.load(sys.stdin.buffer)
from lego_ray.catalog.apart import serve
serve()
"""
# Exit status by which a child says that an allocation failed, where it could not send a message.
_OUT_OF_MEMORY = 76
# How libraries say that an allocation failed in an error of another type.
_OF_MEMORY = re.compile(r"bad_alloc|realloc of size|malloc of size|failed to map segment")
_WORD = 8


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

    The process ends when this call ends, whatever ends it, and when this process ends.

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
    child = _started(what)
    late = threading.Event()

    def end() -> None:
        late.set()
        child.kill()

    timer = threading.Timer(seconds, end) if seconds is not None else None
    try:
        if timer:
            timer.start()
        answer = _ask(child, (memory, function, args, kwargs))
    except (EOFError, OSError, pickle.UnpicklingError):
        answer = None
    finally:
        if timer:
            timer.cancel()
        child.kill()
        status = child.wait()
        for pipe in (child.stdin, child.stdout):
            with contextlib.suppress(OSError):  # what could not be written to a dead child
                pipe.close()  # type: ignore[union-attr]
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
    if status == _OUT_OF_MEMORY or -status in (
        signal.SIGABRT,
        signal.SIGSEGV,
        signal.SIGBUS,
        signal.SIGKILL,
    ):
        raise _too_large(what, memory)
    raise RunFailed(what, f"the process that ran it ended with status {status}")


def _started(what: str) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-c", _BOOT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # ^C in a terminal goes to its whole process group; this process alone answers it.
            start_new_session=True,
        )
    except OSError as error:
        raise RunFailed(
            what,
            f"no process could be started to run it: {error}",
            "Run again when this machine has fewer processes, or more memory.",
        ) from error


def _too_large(what: str, memory: int) -> QueryError:
    return QueryError(
        what,
        f"it needs more memory than the {memory / 2**30:.3g} GiB that its process may take",
        "Ask for fewer rows or columns, or for aggregates.",
    )


def _ask(child: subprocess.Popen[bytes], request: tuple[Any, ...]) -> tuple[str, Any]:
    """Sends a request and receives the answer.

    Raises:
        EOFError: If the child ended before it had answered.
        OSError: If the child ended before it had answered.
    """
    assert child.stdin is not None
    assert child.stdout is not None
    pickle.dump(sys.path, child.stdin)
    _send(child.stdin, request)
    answer: tuple[str, Any] = _receive(child.stdout)
    return answer


def serve() -> NoReturn:
    """The child's side: takes one request from stdin, answers on stdout, and ends the process.

    It ends too when stdin does, which is when the process that asked has ended.
    """
    # Whatever a library prints must not get into the answer.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    memory, function, args, kwargs = _receive(sys.stdin.buffer)
    threading.Thread(target=_end_with_the_asker, daemon=True).start()
    try:
        _limit_memory(memory)
        answer = ("returned", function(*args, **kwargs))
    except LegoRayError as error:
        answer = ("raised", error)
    except MemoryError:
        answer = ("out of memory", None)
    except Exception as error:
        if _OF_MEMORY.search(str(error)):
            answer = ("out of memory", None)
        else:  # such as a package that is not installed
            answer = ("raised", of_the_machine(error) or f"{type(error).__name__}: {error}")
    try:
        _send(out, answer)
        out.flush()
    except MemoryError:
        os._exit(_OUT_OF_MEMORY)
    os._exit(0)  # at once: a thread of DuckDB's may still be at work


def _end_with_the_asker() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def _limit_memory(memory: int) -> None:
    """Makes allocations fail from here on, beyond so many bytes."""
    import resource

    # RLIMIT_DATA counts what is allocated; RLIMIT_AS would count the libraries and every reservation.
    kind = resource.RLIMIT_DATA if sys.platform == "linux" else resource.RLIMIT_AS
    _, hard = resource.getrlimit(kind)
    allowed = memory if hard == resource.RLIM_INFINITY else min(memory, hard)
    with contextlib.suppress(ValueError, OSError):  # a system without this limit
        resource.setrlimit(kind, (allowed, hard))


def _send(pipe: IO[bytes], value: object) -> None:
    """Writes a value, its large buffers without another copy of them."""
    buffers: list[pickle.PickleBuffer] = []
    text = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    parts = [memoryview(text), *(buffer.raw() for buffer in buffers)]
    pipe.write(len(parts).to_bytes(_WORD, "little"))
    for part in parts:
        pipe.write(part.nbytes.to_bytes(_WORD, "little"))
        pipe.write(part)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> Any:
    """Reads what `_send` wrote.

    Raises:
        EOFError: If it is cut short.
    """
    n_parts = int.from_bytes(_exactly(pipe, _WORD), "little")
    text, *buffers = [
        _exactly(pipe, int.from_bytes(_exactly(pipe, _WORD), "little")) for _ in range(n_parts)
    ]
    return pickle.loads(text, buffers=buffers)


def _exactly(pipe: IO[bytes], size: int) -> bytearray:
    data = bytearray(size)
    done, view = 0, memoryview(data)
    while done < size:
        count = pipe.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        done += count
    return data
