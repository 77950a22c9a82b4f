"""Keeps SIGTERM with Python while Ray takes it."""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Iterator
from contextlib import contextmanager

_get = ctypes.pythonapi.PyOS_getsig
_get.argtypes, _get.restype = [ctypes.c_int], ctypes.c_void_p
_set = ctypes.pythonapi.PyOS_setsig
_set.argtypes, _set.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p


@contextmanager
def sigterm_kept() -> Iterator[None]:
    """Puts what SIGTERM did before the block back in force after it, on any thread.

    Connecting, Ray sets a handler of its own below Python's, which prints a trace of machine code on
    stderr and aborts the process three seconds later, however far Python's handler is. Python's own
    functions would put it back from the main thread only, which has other work meanwhile.
    """
    before = _get(signal.SIGTERM)
    try:
        yield
    finally:
        _set(signal.SIGTERM, before)
