"""Another Python process of this package, and how values go to it and come back."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from typing import IO, Any

# It takes the import path of this process, not the working directory's.
_BOOT = """\
import sys
sys.path[:] = sys.argv[1:]
from {module} import serve
serve()
"""
_WORD = 8


def import_path() -> list[str]:
    """What a process that is started now would import from."""
    return [str(place) for place in sys.path]


def start_python(module: str, *, quiet: bool) -> subprocess.Popen[bytes]:
    """Starts a process that calls `serve` of a module, with pipes to its stdin and from its stdout.

    ^C in a terminal goes to the whole group of this process, and not to that one.

    Args:
        module: The module's name.
        quiet: Whether to drop what it writes to stderr.

    Raises:
        OSError: If the system starts no process.
    """
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _BOOT.format(module=module), *import_path()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if quiet else None,
        start_new_session=True,
    )


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kills a process of `start_python` with what it has started, if it has not ended."""
    if process.poll() is None:
        with contextlib.suppress(OSError):  # it has ended since
            os.killpg(process.pid, signal.SIGKILL)


def closed(process: subprocess.Popen[bytes]) -> int:
    """Kills a process of `start_python`, and closes its pipes.

    Returns:
        Its exit status.
    """
    kill(process)
    status = process.wait()
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):  # what could not be written to a dead process
            pipe.close()  # type: ignore[union-attr]
    return status


def send(pipe: IO[bytes], value: object) -> None:
    """Writes a value, its large buffers without another copy of them.

    Args:
        pipe: Where to.
        value: What; anything that pickle takes.
    """
    buffers: list[pickle.PickleBuffer] = []
    text = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    parts = [memoryview(text), *(buffer.raw() for buffer in buffers)]
    pipe.write(len(parts).to_bytes(_WORD, "little"))
    for part in parts:
        pipe.write(part.nbytes.to_bytes(_WORD, "little"))
        pipe.write(part)
    pipe.flush()


def receive(pipe: IO[bytes]) -> Any:
    """Reads what `send` wrote.

    Raises:
        EOFError: If it is cut short.
    """
    return loaded(parts_of(pipe))


def parts_of(pipe: IO[bytes]) -> list[bytearray]:
    """Reads what `send` wrote, for `loaded`.

    Raises:
        EOFError: If it is cut short.
    """
    n_parts = int.from_bytes(_exactly(pipe, _WORD), "little")
    return [_exactly(pipe, int.from_bytes(_exactly(pipe, _WORD), "little")) for _ in range(n_parts)]


def loaded(parts: list[bytearray]) -> Any:
    """The value that was sent in these parts."""
    text, *buffers = parts
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
