"""The process in which `apart` runs a function, and the words between the two."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import select
import sys
import threading
from dataclasses import dataclass
from typing import IO, NoReturn

from lego_ray.errors import LegoRayError
from lego_ray.faults import of_the_machine
from lego_ray.pipes import loaded, parts_of, send

# How long a parent waits for another call.
IDLE_SECONDS = 60.0
# Exit status by which a child says that an allocation failed, where it could not send a message.
OUT_OF_MEMORY = 76
# Exit status of a parent that has waited long enough.
UNUSED = 77
# What answers import when they are called, and fork-safe: none of them starts a thread that is in use.
_IMPORTED_ONCE = ("pyarrow.dataset", "deltalake", "duckdb", "lego_ray.catalog.query")
FORKS = sys.platform == "linux"
# How libraries say that an allocation failed in an error of another type.
_OF_MEMORY = re.compile(r"bad_alloc|realloc of size|malloc of size|failed to map segment")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a process that answers has in common with the one that asks, when it asks."""

    directory: str | None
    environment: dict[str, str]

    @classmethod
    def here(cls) -> Surroundings:
        """Those of this process."""
        try:
            directory = os.getcwd()  # noqa: PTH109 - text, to be sent
        except OSError:  # it was deleted
            directory = None
        return cls(directory, dict(os.environ))

    def enter(self) -> None:
        """Takes them over."""
        if self.directory is not None:
            with contextlib.suppress(OSError):
                os.chdir(self.directory)
        os.environ.clear()
        os.environ.update(self.environment)


def serve() -> NoReturn:
    """The side that answers: takes calls from stdin, answers each on stdout, and ends the process.

    It ends when stdin does, which is when the process that asks has ended.
    """
    # Whatever a library prints must not get into the answer.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    # Unbuffered, so that what comes after a call is still in the pipe.
    calls = os.fdopen(os.dup(0), "rb", buffering=0)
    if not FORKS:
        _answer_one(_received(calls), out)
    for name in _IMPORTED_ONCE:
        with contextlib.suppress(Exception):  # the call that needs it says what is wrong
            importlib.import_module(name)
    while True:
        if not select.select([calls], [], [], IDLE_SECONDS)[0]:
            os._exit(UNUSED)
        parts = _received(calls)
        child = os.fork()
        if not child:
            _answer_one(parts, out)
        _, status = os.waitpid(child, 0)
        if status:
            _end_alike(os.waitstatus_to_exitcode(status))


def _received(calls: IO[bytes]) -> list[bytearray]:
    try:
        return parts_of(calls)
    except EOFError:
        os._exit(0)


def _end_alike(code: int) -> NoReturn:
    """Ends this process as the one ended whose exit code this is, so that the one that asked sees it."""
    if code < 0:
        os.kill(os.getpid(), -code)
    os._exit(code if code > 0 else 1)


def _answer_one(parts: list[bytearray], out: IO[bytes]) -> NoReturn:
    """Answers one call, and ends the process."""
    threading.Thread(target=_end_with_the_asker, daemon=True).start()
    try:
        surroundings, memory, function, args, kwargs = loaded(parts)
        surroundings.enter()
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
        send(out, answer)
        out.flush()
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    os._exit(0)  # at once: a thread of DuckDB's may still be at work


def _end_with_the_asker() -> None:
    """Ends this process when no one has the other end of stdin any more."""
    hung_up = select.poll()
    hung_up.register(0, 0)
    hung_up.poll()
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
