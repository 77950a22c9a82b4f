"""Counts what a store fetched, safely under threads."""

from __future__ import annotations

import threading


class Meter:
    """Bytes and read requests of one store object in one process.

    A pickled meter comes back at zero, because its counts belong to the process that made them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bytes_read = 0
        self._requests = 0

    def __reduce__(self) -> tuple[type[Meter], tuple[()]]:
        return (Meter, ())

    @property
    def bytes_read(self) -> int:
        """Bytes fetched so far."""
        return self._bytes_read

    @property
    def requests(self) -> int:
        """Read requests made so far."""
        return self._requests

    def add(self, size: int) -> None:
        """Counts one read request.

        Args:
            size: Bytes it fetched.
        """
        with self._lock:
            self._bytes_read += size
            self._requests += 1
