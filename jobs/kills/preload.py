"""Calls a function in a forked process that is ended before its n-th call that changes a file."""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("kill_at.c")
_READY = "LEGO_RAY_KILLS"


def with_library(folder: Path, words: list[str]) -> None:
    """Replaces this process by one in which the counting library is loaded, unless it is.

    Args:
        folder: Where to build it.
        words: The command of the process, after the interpreter.

    Raises:
        RuntimeError: If there is no C compiler, or the library does not build.
    """
    if os.environ.get(_READY):
        return
    library = build(folder)
    environ = {
        **os.environ,
        _READY: "1",
        "LD_PRELOAD": str(library),
        # Threads that outlive a call would be missing in a forked process.
        "OMP_NUM_THREADS": "1",
    }
    os.execve(sys.executable, [sys.executable, *words], environ)


def build(folder: Path) -> Path:
    """Builds the counting library, and gives its path.

    Args:
        folder: Where to.

    Raises:
        RuntimeError: If there is no C compiler, or the library does not build.
    """
    library = folder / "kill_at.so"
    words = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"]
    try:
        subprocess.run(words, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise RuntimeError("building kill_at.c needs a C compiler, `cc`") from None
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"kill_at.c does not build: {error.stderr}") from None
    return library


def forked(function: Callable[..., Any], *args: Any, below: Path, at: int = 0) -> tuple[int, Any]:
    """Calls a function in a forked process.

    Args:
        function: What to call.
        *args: With what.
        below: The directory whose changes are counted.
        at: The call before which the process ends; 0 for none.

    Returns:
        The number of calls, and what the function returned; of a process that was ended, 0 and None.

    Raises:
        RuntimeError: If the function raised, or the process ended in another way.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        _call(writing, function, args, below, at)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(pid, 0)
    if at and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return 0, None
    if not data:
        raise RuntimeError(f"{function.__name__} ended with status {status}")
    seen, answer, problem = pickle.loads(data)
    if problem:
        raise RuntimeError(problem)
    return seen, answer


def _call(
    writing: int, function: Callable[..., Any], args: tuple[Any, ...], below: Path, at: int
) -> None:
    library = ctypes.CDLL(None)
    library.kill_at_seen.restype = ctypes.c_long
    answer, problem = None, ""
    try:
        library.kill_at_arm(str(below).encode(), ctypes.c_long(at))
        answer = function(*args)
    except BaseException as error:
        problem = f"{type(error).__name__}: {error}"
    seen = library.kill_at_seen()
    library.kill_at_arm(b"", ctypes.c_long(0))
    with os.fdopen(writing, "wb") as pipe:
        pipe.write(pickle.dumps((seen, answer, problem)))
    os._exit(0)
