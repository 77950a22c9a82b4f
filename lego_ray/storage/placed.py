"""What every store is beside its bytes: at a place, and with a count of what it fetched."""

from __future__ import annotations

from typing import Generic, TypeVar

from lego_ray.storage.meter import Meter
from lego_ray.storage.places import Place

P = TypeVar("P", bound=Place)


class PlacedStore(Generic[P]):
    """Base of the stores; see `base.Store` for what one promises.

    Args:
        at: The root.
    """

    def __init__(self, at: P) -> None:
        self._at = at
        self._meter = Meter()

    @property
    def place(self) -> P:
        """The root, with the revision as it was asked for."""
        return self._at

    @property
    def uri(self) -> str:
        """The root's URI, without a trailing slash; of a directory, its absolute path."""
        return str(self._at)

    @property
    def revision(self) -> str:
        """The commit the root is pinned to; empty where there are no commits."""
        return ""

    @property
    def bytes_read(self) -> int:
        """Bytes fetched in this process, gaps of coalesced reads and repeated tries included."""
        return self._meter.bytes_read

    @property
    def requests(self) -> int:
        """Requests for bytes that were answered in this process; listing and describing are not."""
        return self._meter.requests
