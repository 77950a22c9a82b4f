"""Refuses to load torch where the address space is too small for it: there torch ends the process."""

from __future__ import annotations

import mmap
import resource
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType

# Its libraries are mapped in half a GiB, and what their own start allocates comes on top. With less than
# this left no merge gets further than that.
NEEDED = 700 << 20


class _BeforeTorch(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> None:
        if fullname == "torch":
            try:
                mmap.mmap(-1, NEEDED, prot=mmap.PROT_READ).close()
            except OSError as error:
                raise MemoryError(f"torch takes {NEEDED >> 20} MiB of address space") from error


def watch_room() -> None:
    """Has torch's first import raise `MemoryError`, if there is a limit and it leaves too little."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        sys.meta_path.insert(0, _BeforeTorch())
