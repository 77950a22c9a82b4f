"""Ends what this process started for a score, and removes its folders, also if this process is killed.

A worker of a cluster is ended by SIGKILL, as any process may be, and then cannot tidy up. So a small
process beside it reads a pipe from it. When the pipe ends, that process ends the groups of processes and
removes the folders that were given to it and not taken back.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

# It leaves its parent, because Ray ends the children of a worker with it. SIGTERM comes first, so that a
# scorer may end what it started elsewhere.
_WARDEN = """\
import os, signal, sys, time
if os.fork():
    os._exit(0)
kept = {"group": set(), "folder": set()}
for line in sys.stdin:
    word, kind, value = line.split()
    getattr(kept[kind], word)(value)
def send(group, number):
    try:
        os.killpg(int(group), number)
    except OSError:
        return False
    return True
alive = [group for group in kept["group"] if send(group, signal.SIGTERM)]
end = time.monotonic() + 2
while time.monotonic() < end and any([send(group, 0) for group in alive]):
    time.sleep(0.02)
for group in alive:
    send(group, signal.SIGKILL)
if kept["folder"]:
    import shutil
    for folder in kept["folder"]:
        shutil.rmtree(bytes.fromhex(folder), ignore_errors=True)
"""


class _Warden:
    """The process beside this one, while there is something to give to it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._given = 0

    def give(self, kind: str, value: str) -> None:
        with self._lock:
            if self._process is None:
                self._process = _started()
            self._given += 1
            self._say(f"add {kind} {value}")

    def take_back(self, kind: str, value: str) -> None:
        with self._lock:
            self._given -= 1
            self._say(f"discard {kind} {value}")
            if not self._given and self._process is not None:
                with contextlib.suppress(OSError):
                    assert self._process.stdin is not None
                    self._process.stdin.close()
                self._process.wait()
                self._process = None

    def _say(self, line: str) -> None:
        if self._process is None:
            return
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it was killed; this process tidies up as without it
            self._process.stdin.write(f"{line}\n".encode())
            self._process.stdin.flush()


def _started() -> subprocess.Popen[bytes] | None:
    with contextlib.suppress(OSError):  # the machine has no process left: the scorer will say so
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _WARDEN],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    return None


_warden = _Warden()


@contextlib.contextmanager
def ended_with_us(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Has a process and its group ended if this process is killed inside the block.

    Args:
        process: The process, which leads its group.
    """
    _warden.give("group", str(process.pid))
    try:
        yield
    finally:
        _warden.take_back("group", str(process.pid))


@contextlib.contextmanager
def removed_with_us(folder: str) -> Iterator[None]:
    """Has a folder removed if this process is killed inside the block.

    Args:
        folder: The folder.
    """
    value = bytes(Path(folder).absolute()).hex()
    _warden.give("folder", value)
    try:
        yield
    finally:
        _warden.take_back("folder", value)
