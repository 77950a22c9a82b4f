"""Bytes on a local disk, or on one mounted like it."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from lego_ray.errors import AlreadyExists, ObjectNotFound, StorageError, UnsafeStore, UnsupportedUri
from lego_ray.storage.base import ByteRange, ObjectInfo
from lego_ray.storage.fetch import fetch_ranges
from lego_ray.storage.file_errors import disk_errors
from lego_ray.storage.file_walk import TEMPORARY, walk
from lego_ray.storage.keys import check_key
from lego_ray.storage.meter import Meter
from lego_ray.storage.uri import FileUri, parse_uri

MAX_GAP = 64 << 10
"""Bytes. Copying 64 KiB out of the page cache costs about what a call and a seek do."""

MAX_REQUEST = 1 << 30
"""Bytes. Linux moves at most 2 GiB a call."""

# Each lost try takes a `delete` of another that falls within microseconds.
_MAKE_TRIES = 20

# What link() answers where a file system has no hard links, or allows none.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class FileStore:
    """A directory as a store. A directory that is not there yet holds no objects.

    Safe to share between threads and processes.

    Args:
        root: The directory: a path, absolute or from the working directory, or a file URI.

    Raises:
        UnsupportedUri: If `root` is another kind of URI.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        parsed = parse_uri(root)
        if not isinstance(parsed, FileUri):
            raise UnsupportedUri(str(parsed), "this is no local path", "Use open_store.")
        self._root = parsed.path
        self._meter = Meter()

    def __repr__(self) -> str:
        return f"FileStore({self._root!r})"

    @property
    def uri(self) -> str:
        """The plain absolute path, which is what other tools take for a directory."""
        return self._root

    @property
    def revision(self) -> str:
        """Empty: a directory has no commits."""
        return ""

    @property
    def bytes_read(self) -> int:
        """Bytes read, gaps of coalesced reads included."""
        return self._meter.bytes_read

    @property
    def requests(self) -> int:
        """Reads made, one for each span of near ranges."""
        return self._meter.requests

    def _path(self, key: str) -> Path:
        check_key(self._root, key)
        if key.rpartition("/")[2].startswith(TEMPORARY):
            raise StorageError(self._root, f"the key {key!r} is kept for files being written")
        return Path(self._root, key)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yields every file whose key starts with `prefix`, in key order.

        Links are followed, but never back into a directory they lie in. Files being written, and
        anything that is no regular file, are left out.
        """
        with disk_errors(self._root):
            try:
                root = os.stat(self._root)  # noqa: PTH116 - Path.stat is the same call
            except FileNotFoundError:
                return
        if not stat.S_ISDIR(root.st_mode):
            raise ObjectNotFound(
                self._root, "this is no directory", "Give the directory that holds the file."
            )
        yield from walk(self._root, prefix)

    def stat(self, key: str) -> ObjectInfo:
        """Describes one file; its version is its size and modification time in nanoseconds."""
        path = self._path(key)
        with disk_errors(str(path)):
            found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise ObjectNotFound(str(path), "this is no regular file")
        return ObjectInfo(key, found.st_size, f"{found.st_size}-{found.st_mtime_ns}")

    def read(self, key: str) -> bytes:
        """Reads one file whole."""
        path = self._path(key)
        with disk_errors(str(path)):
            data = path.read_bytes()
        self._meter.add(len(data))
        return data

    def read_ranges(self, key: str, ranges: Sequence[ByteRange]) -> Sequence[memoryview]:
        """Reads ranges of one file, near ones in one call.

        Returns:
            One buffer a range, in the order asked.

        Raises:
            StorageError: If a range ends past the end of the file.
        """
        path = self._path(key)
        with disk_errors(str(path)), path.open("rb", buffering=0) as file:

            def fetch(part: ByteRange, into: memoryview) -> None:
                file.seek(part.start)
                done = 0
                while done < part.size:
                    count = file.readinto(into[done:])
                    if not count:
                        raise StorageError(
                            str(path),
                            f"bytes {part.start} to {part.end} were asked for, and the file ends "
                            f"at {part.start + done}",
                            "It is cut short, or its header does not belong to it.",
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
        temporary = path.with_name(TEMPORARY + secrets.token_hex(8))
        with disk_errors(str(path)):
            try:
                with _open_new(temporary) as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                _link(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
            _sync_directory(path.parent)

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


def _open_new(path: Path) -> BinaryIO:
    """Opens a file that is not there yet, making its directory."""
    for _ in range(_MAKE_TRIES):
        # A directory that is empty so far may be removed by another's `delete` in between.
        with contextlib.suppress(FileNotFoundError):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Mode "x" and not tempfile, whose files no one else may read.
            return path.open("xb")
    return path.open("xb")


def _link(temporary: Path, path: Path) -> None:
    """Gives a finished file its name, unless that name is taken."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise AlreadyExists(str(path), "there is a file in its place") from None
    except OSError as error:
        if error.errno in _NO_LINKS:
            raise UnsafeStore(
                str(path),
                f"this file system makes no hard links ({error.strerror}), and without them a "
                "file cannot be created whole and only once",
                "Write to another disk, or to S3.",
            ) from error
        raise


def _sync_directory(path: Path) -> None:
    """Makes a new name in a directory outlast a power cut, where the system can."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:  # another deleted the file again, and its directory with it
        return
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems cannot sync a directory, and need not.
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(handle)
