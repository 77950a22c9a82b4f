"""An environment that threads may read while a test changes it.

`setenv` of a C library may move the array of variables and free the old one, while a thread of Arrow,
torch or the resolver walks it in `getenv`, without Python's lock: a segmentation fault. A suite changes
its environment some ten thousand times (pytest alone does for each phase of a test), a user's process
hardly ever does.
"""

from __future__ import annotations

import ctypes
import os
import sys

_Text = str | bytes | os.PathLike[str] | os.PathLike[bytes]

_ROOM = 16_384


class _Steady:
    """The array of this process's variables, in a place that it never leaves."""

    def __init__(self) -> None:
        self._array = (ctypes.c_void_p * _ROOM)()
        self._current = ctypes.c_void_p.in_dll(ctypes.CDLL(None), "environ")
        # Never freed: a thread may hold a value for as long as it likes.
        self._entries: list[ctypes.Array[ctypes.c_char]] = []
        self._move_in()

    def put(self, variable: _Text, to: _Text, /) -> None:
        """In place of `os.putenv`."""
        name, value = os.fsencode(variable), os.fsencode(to)
        if b"\0" in name + value:
            raise ValueError("embedded null byte")
        if self._current.value != ctypes.addressof(self._array):
            self._move_in()  # code that is not Python added a variable by itself
        entry = ctypes.create_string_buffer(name + b"=" + value)
        self._entries.append(entry)
        for slot, held in enumerate(self._array):
            if held is None:
                self._array[slot + 1] = None
            elif not ctypes.string_at(held).startswith(name + b"="):
                continue
            self._array[slot] = ctypes.addressof(entry)
            return
        raise OSError(f"more than {_ROOM} variables")

    def _move_in(self) -> None:
        now = ctypes.cast(self._current.value or 0, ctypes.POINTER(ctypes.c_void_p))
        slot = 0
        while now and now[slot] is not None:
            self._array[slot] = now[slot]
            slot += 1
        self._array[slot] = None
        self._current.value = ctypes.addressof(self._array)


def hold_still() -> None:
    """From now on the variables that Python sets in this process are added without moving the others."""
    if sys.platform == "linux":
        # `os.environ` sets variables by this name.
        os.putenv = _Steady().put
