"""What every store promises: bytes by key under one root URI. Knows no LoRA."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, runtime_checkable

from lego_ray.errors import AccessDenied
from lego_ray.storage.places import Place

# Is given the key of a folder that must not be read, and the error.
Denied = Callable[[str, AccessDenied], object]


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object under a store's root.

    Attributes:
        key: Path below the root, with `/` between parts.
        size: Bytes.
        version: The store's own mark of this content: an ETag, a blob hash, or size and
            modification time on disk. A rewritten object has another. On disk it holds neither device
            nor inode, because one file has others on each node that mounts it, nor the time of the
            last status change, which links and copies of the tree set and some mounts make up.
        modified_at: When it was last written, in UTC, by the store's clock, or None where the store
            does not say. A listing may say it to the second or finer, so it is not part of equality.
        stamp: On disk, the inode and the time of the last status change: they show that a file was
            replaced by another of the same size and modification time. Other nodes and copies have
            other ones, so it may only be used to look again; empty in other stores.
    """

    key: str
    size: int
    version: str
    modified_at: datetime | None = field(default=None, compare=False)
    stamp: str = field(default="", compare=False)

    @property
    def changed_at(self) -> str:
        """Of `stamp`, the time of the last status change, in nanoseconds; empty in other stores."""
        return self.stamp.rpartition("-")[2]

    @property
    def mark(self) -> tuple[str, int, str, str]:
        """Everything by which a listing shows that the object was written since, as plain values.

        Two looks from two nodes may find other marks of an object that is the same.
        """
        written = self.modified_at.isoformat() if self.modified_at else ""
        return self.key, self.size, self.version, f"{written} {self.stamp}"


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes `start` up to, not including, `end` of an object."""

    start: int
    end: int

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.end - self.start


class Store(Protocol):
    """Bytes by key under one root.

    A store is a value: it can be pickled and sent to a worker, and opens its connections lazily,
    once a process. Any method may raise `ObjectNotFound`, `AccessDenied` or `StoreUnavailable`.
    """

    @property
    def place(self) -> Place:
        """The root, with the revision as it was asked for."""

    @property
    def uri(self) -> str:
        """The root's URI, without a trailing slash: the place as text."""

    @property
    def revision(self) -> str:
        """The commit the root is pinned to, or empty where the store has no commits."""

    @property
    def bytes_read(self) -> int:
        """Bytes fetched through this object in this process, gaps of coalesced reads included."""

    @property
    def requests(self) -> int:
        """Read requests made through this object in this process."""

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yields every object whose key starts with `prefix`, in key order."""

    def stat(self, key: str) -> ObjectInfo:
        """Describes one object."""

    def read(self, key: str, version: str | None = None) -> bytes:
        """Reads one object whole.

        Args:
            key: The object's.
            version: What `list` or `stat` gave as its version: all bytes are that version's. None
                takes whatever is there.

        Raises:
            SourceChanged: If a version is given, and the object has another by now or is gone.
        """

    def read_ranges(
        self, key: str, ranges: Sequence[ByteRange], version: str | None = None
    ) -> Sequence[memoryview]:
        """Reads ranges of one object, near ones in one request.

        Args:
            key: The object's.
            ranges: First byte and one past the last of each, in any order.
            version: As for `read`.

        Returns:
            One buffer a range, in the order asked.

        Raises:
            SourceChanged: If a version is given, and the object has another by now or is gone.
            ObjectNotFound: If there is no such object, and no version is given.
            StorageError: If a range ends past the end of the object; no buffer is ever short.
        """

    def create(self, key: str, data: bytes) -> None:
        """Writes a new object, atomically: no reader ever sees part of it.

        Args:
            key: The object's, relative to the store's URI.
            data: All of its bytes.

        Raises:
            AlreadyExists: If there is one; it is left as it was.
            ReadOnlyStore: If this kind of store cannot be written.
        """

    def create_from(self, key: str, size: int, parts: Iterable[bytes]) -> None:
        """Writes a new object that need not fit in memory: whole or not at all.

        One that is there is left as it was. Of two writers at the same moment both may win on a server
        that ignores `If-None-Match` at the end of a multipart upload, as Ceph does: the object is then
        one of theirs. So it is for writers that are known to write the same bytes.

        Args:
            key: The object's, relative to the store's URI.
            size: Bytes of all parts together.
            parts: Its bytes, in order; taken one at a time.

        Raises:
            AlreadyExists: If there is one; it is left as it was.
            StorageError: If the parts have another size together; nothing is written.
            ReadOnlyStore: If this kind of store cannot be written.
        """

    def delete(self, key: str) -> None:
        """Removes one object; one that is not there is no error."""


@runtime_checkable
class HasFolders(Protocol):
    """A store whose folders may each be closed to this user."""

    def list_open(self, denied: Denied) -> Iterator[ObjectInfo]:
        """Yields every object in key order, as `Store.list` does, except those in closed folders.

        Args:
            denied: Called for each folder below the root that must not be read.

        Raises:
            AccessDenied: If the root must not be read.
        """


@runtime_checkable
class HasUnfinished(Protocol):
    """A store that hides objects which are still being written, or were when their writer was killed."""

    def unfinished(self, folder: str = "") -> Iterator[ObjectInfo]:
        """Yields those below a folder; the root if it is empty."""


def list_readable(store: Store) -> Iterator[ObjectInfo]:
    """Yields every object in key order except those in folders that must not be read, without a word.

    For places where only known files count: a disk may have a `lost+found`.

    Args:
        store: The place.

    Raises:
        AccessDenied: If the root must not be read.
    """
    if isinstance(store, HasFolders):
        return store.list_open(lambda key, error: None)
    return store.list()
