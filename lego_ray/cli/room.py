"""Refuses to load libraries that end the process where the address space is too small for them."""

from __future__ import annotations

import mmap
import resource
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType

# Bytes that must be left before each is loaded. Torch's libraries are mapped in half a GiB, and more is
# allocated at their start; Arrow and OpenBLAS start threads with stacks.
NEEDED = {"torch": 700 << 20, "pyarrow": 256 << 20, "numpy": 256 << 20}


class _BeforeLoading(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> None:
        if needed := NEEDED.get(fullname):
            try:
                mmap.mmap(-1, needed, prot=mmap.PROT_READ).close()
            except OSError as error:
                raise MemoryError(
                    f"{fullname} takes {needed >> 20} MiB of address space"
                ) from error


def watch_room() -> None:
    """Has the first import of each raise `MemoryError`, if there is a limit and it leaves too little."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        sys.meta_path.insert(0, _BeforeLoading())
