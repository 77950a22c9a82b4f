"""Bytes on a local disk, or on one mounted like it."""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from lego_ray.errors import ObjectNotFound, StorageError, UnsupportedUri
from lego_ray.storage.base import ByteRange, Denied, ObjectInfo
from lego_ray.storage.fetch import fetch_ranges
from lego_ray.storage.file_errors import disk_errors
from lego_ray.storage.file_walk import TEMPORARY, described, walk
from lego_ray.storage.file_write import write_new
from lego_ray.storage.keys import check_key
from lego_ray.storage.parts import of_size
from lego_ray.storage.placed import PlacedStore
from lego_ray.storage.places import FilePlace
from lego_ray.storage.uri import parse_uri
from lego_ray.storage.versions import changed, present

MAX_GAP = 64 << 10
"""Bytes. Copying 64 KiB out of the page cache costs about what a call and a seek do."""

MAX_REQUEST = 1 << 30
"""Bytes. Linux moves at most 2 GiB a call."""


class FileStore(PlacedStore[FilePlace]):
    """A directory as a store. A directory that is not there yet holds no objects.

    Safe to share between threads and processes.

    Args:
        root: The directory: a path, absolute or from the working directory, or a file URI.

    Raises:
        UnsupportedUri: If `root` is another kind of URI.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        parsed = parse_uri(root)
        if not isinstance(parsed, FilePlace):
            raise UnsupportedUri(str(parsed), "this is not a local path", "Use open_store.")
        super().__init__(parsed)
        self._root = parsed.path

    def __repr__(self) -> str:
        return f"FileStore({self._root!r})"

    def _path(self, key: str) -> Path:
        check_key(self._root, key)
        if key.rpartition("/")[2].startswith(TEMPORARY):
            raise StorageError(self._root, f"the key {key!r} is kept for files being written")
        return Path(self._root, key)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yields every file whose key starts with `prefix`, in key order.

        Links are followed, but never back into a directory they lie in. Files being written, and
        anything that is not a regular file, are left out.
        """
        yield from self._list(prefix, None)

    def list_open(self, denied: Denied) -> Iterator[ObjectInfo]:
        """Yields every file except those in directories that must not be read; see `HasFolders`."""
        yield from self._list("", denied)

    def _list(self, prefix: str, denied: Denied | None) -> Iterator[ObjectInfo]:
        with disk_errors(self._root):
            try:
                root = os.stat(self._root)  # noqa: PTH116 - Path.stat is the same call
            except FileNotFoundError:
                return
        if not stat.S_ISDIR(root.st_mode):
            raise ObjectNotFound(
                self._root, "this is not a directory", "Give the directory that holds the file."
            )
        yield from walk(self._root, prefix, denied)

    def stat(self, key: str) -> ObjectInfo:
        """Describes one file; its version is its size and modification time in nanoseconds."""
        path = self._path(key)
        with disk_errors(str(path)):
            found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise ObjectNotFound(str(path), "this is not a regular file")
        return described(key, found)

    def read(self, key: str, version: str | None = None) -> bytes:
        """Reads one file whole.

        Raises:
            SourceChanged: If a version is given, and it has another by now or is gone.
        """
        path = self._path(key)
        with _version_of(path, version) as file:
            data = file.read()
        self._meter.add(len(data))
        return data

    def read_ranges(
        self, key: str, ranges: Sequence[ByteRange], version: str | None = None
    ) -> Sequence[memoryview]:
        """Reads ranges of one file, near ones in one call.

        Returns:
            One buffer a range, in the order asked.

        Raises:
            SourceChanged: If a version is given, and it has another by now or is gone.
            StorageError: If a range ends past the end of the file.
        """
        path = self._path(key)
        with _version_of(path, version) as file:

            def fetch(part: ByteRange, into: memoryview) -> None:
                file.seek(part.start)
                done = 0
                while done < part.size:
                    count = file.readinto(into[done:])
                    if not count:
                        if version is not None:  # the size was right when it was opened
                            raise changed(str(path))
                        raise StorageError(
                            str(path),
                            f"bytes {part.start} to {part.end} were asked for, and the file ends "
                            f"at {part.start + done}",
                            "It is truncated, or its header belongs to another file.",
                        )
                    done += count
                self._meter.add(done)

            return fetch_ranges(
                str(path), ranges, fetch, max_gap=MAX_GAP, max_request=MAX_REQUEST, threads=1
            )

    def create(self, key: str, data: bytes) -> None:
        """Writes a new file, durably and atomically: no reader ever sees part of it.

        Raises:
            AlreadyExists: If there is something at that key; it is left as it was.
            UnsafeStore: If the file system has no hard links, which this needs.
        """
        path = self._path(key)
        with disk_errors(str(path)):
            write_new(path, (data,))

    def create_from(self, key: str, size: int, parts: Iterable[bytes]) -> None:
        """Writes a new file part by part, durably and atomically.

        Raises:
            AlreadyExists: If there is something at that key; it is left as it was.
            StorageError: If the parts have another size together; nothing is written.
            UnsafeStore: If the file system has no hard links, which this needs.
        """
        path = self._path(key)
        with disk_errors(str(path)):
            write_new(path, of_size(str(path), size, parts))

    def delete(self, key: str) -> None:
        """Removes one file; one that is not there is no error.

        Directories below the root that this leaves empty go too, as they do on other stores.
        """
        path = self._path(key)
        with (
            disk_errors(str(path)),
            contextlib.suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError),
        ):
            path.unlink()
            with contextlib.suppress(OSError):  # not empty, or not ours to remove
                for above in path.parents[: key.count("/")]:
                    above.rmdir()


@contextlib.contextmanager
def _version_of(path: Path, version: str | None) -> Iterator[io.FileIO]:
    """Opens a file for a block that reads it, and holds it against a version before and after.

    A file that is replaced while it is open goes on giving the old bytes; one that is rewritten in
    place gives some of either, and has another time or size after that.

    Raises:
        SourceChanged: If a version is given, and the file has another or is gone.
    """
    with present(str(path), version), disk_errors(str(path)), _opened(path) as file:
        _check(path, file, version)
        yield file
        _check(path, file, version)
        if version is not None:
            # Opened once more, because a network file system may answer fstat from its cache for a
            # minute, and asks the server when a file is opened.
            with _opened(path) as again:
                _check(path, again, version)


def _check(path: Path, file: io.FileIO, version: str | None) -> None:
    if version is not None and described("", os.fstat(file.fileno())).version != version:
        raise changed(str(path))


def _opened(path: Path) -> io.FileIO:
    """Opens a regular file, and never waits for one that is none: a pipe, a terminal, /dev/zero."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    file = io.FileIO(handle, "rb")
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        file.close()
        raise ObjectNotFound(str(path), "this is not a regular file")
    return file
