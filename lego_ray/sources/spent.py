"""What a scan has listed and read so far, held against its limits."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError

from lego_ray.errors import ScanLimitReached
from lego_ray.planning.scan_limits import FLAG, NO_LIMITS, ScanLimits
from lego_ray.storage.base import Store

_WHAT = {
    "objects": "files to list",
    "adapters": "files and directories that may be adapters",
    "bytes": "bytes of headers to read",
}


class Spent:
    """Counts over all sources of one scan. Safe to share between threads.

    Once a limit is reached, every later count of any thread raises too, so that no thread reads on.
    """

    def __init__(self, limits: ScanLimits = NO_LIMITS) -> None:
        """Starts at nothing.

        Args:
            limits: The most of each.
        """
        self._limits = limits
        self._lock = threading.Lock()
        self._counts = {"objects": 0, "adapters": 0, "bytes": 0}
        self._of_store: dict[int, int] = {}
        self._over: tuple[str, str] | None = None
        self._ended = False

    def end(self) -> None:
        """Lets every later count raise, so that threads which list or read end soon."""
        with self._lock:
            self._ended = True

    def listed(self, where: str) -> None:
        """Counts one file listed.

        Args:
            where: The source, for the error.

        Raises:
            ScanLimitReached: If it is one too many.
        """
        self._add("objects", 1, where)

    def found(self, where: str) -> None:
        """Counts what may be an adapter; see `listed`."""
        self._add("adapters", 1, where)

    def read(self, store: Store) -> None:
        """Counts what was read through a store since it was counted last; see `listed`."""
        with self._lock:
            now = store.bytes_read
            more = now - self._of_store.get(id(store), 0)
            self._of_store[id(store)] = now
        self._add("bytes", more, store.uri)

    def _add(self, what: str, amount: int, where: str) -> None:
        with self._lock:
            self._counts[what] += amount
            if self._over is None and self._counts[what] > getattr(self._limits, what):
                self._over = (what, where)
            over, ended = self._over, self._ended
        if ended:
            raise CancelledError
        if over is not None:
            raise self._reached(*over)

    def _reached(self, what: str, where: str) -> ScanLimitReached:
        limit: int = getattr(self._limits, what)
        return ScanLimitReached(
            where,
            f"the sources have more than {limit:,} {_WHAT[what]}, the most that one scan takes; nothing "
            "of them was taken",
            f"Name a narrower source, such as one folder of it, or raise the limit: {FLAG} "
            f"{what}={10 * limit}.",
        )
