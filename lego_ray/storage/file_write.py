"""Writes a file that is whole from the moment it has its name."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from lego_ray.errors import AlreadyExists, UnsafeStore
from lego_ray.storage.file_walk import TEMPORARY

T = TypeVar("T")

# What link() answers where a file system has no hard links, or allows none.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)

# What open() answers where a file system, or a kernel, has no files without a name; and EPERM, which
# ext4 gives in a directory that is being removed. One with a name is refused in the usual words then.
_NO_UNNAMED = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.EPERM)
_UNNAMED: int | None = getattr(os, "O_TMPFILE", None)  # Linux only
# Where the system lists a process's open files, which is how one without a name is linked.
_OPEN_FILES = Path("/proc/self/fd")

# A directory that is empty so far may be removed by another's delete, at any moment; each lost try
# takes one that falls within microseconds.
_TRIES = 20


def write_new(path: Path, parts: Iterable[bytes]) -> None:
    """Writes a new file, durably and atomically: no reader ever sees part of it.

    Where the file has no name until it is whole, a process that is killed leaves nothing behind;
    elsewhere it may leave a file whose name starts with `TEMPORARY`.

    Args:
        path: Its place; directories above are made.
        parts: What is in it, in order. If taking one raises, nothing is written.

    Raises:
        AlreadyExists: If there is something in its place; it is left as it was.
        UnsafeStore: If the file system has no hard links, which this needs.
        OSError: If the system refuses.
    """
    with _new_file(path.parent) as (handle, name):
        for part in parts:
            left = memoryview(part)
            while left:
                left = left[os.write(handle, left) :]
        os.fsync(handle)
        _in_directory(path.parent, lambda: _link(handle, name, path))
    _sync_directory(path.parent)


def _in_directory(directory: Path, work: Callable[[], T]) -> T:
    """Does something in a directory that is made if need be, and may be removed at any moment."""
    for _ in range(_TRIES - 1):
        # Either, from mkdir: it was there, and was gone when Python looked what it is.
        with contextlib.suppress(FileNotFoundError, FileExistsError):
            directory.mkdir(parents=True, exist_ok=True)
            return work()
    directory.mkdir(parents=True, exist_ok=True)
    return work()


@contextmanager
def _new_file(directory: Path) -> Iterator[tuple[int, Path]]:
    """Opens a file, and gives the path by which it can be linked; closed, and gone, at the end."""
    handle = _in_directory(directory, lambda: _open_unnamed(directory))
    if handle is not None:
        try:
            yield handle, _OPEN_FILES / str(handle)
        finally:
            os.close(handle)
        return
    temporary = directory / (TEMPORARY + secrets.token_hex(8))
    # Not tempfile, whose files no one else may read.
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    handle = _in_directory(directory, lambda: os.open(temporary, flags, 0o666))
    try:
        yield handle, temporary
    finally:
        os.close(handle)
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def _open_unnamed(directory: Path) -> int | None:
    if _UNNAMED is None or not _OPEN_FILES.is_dir():
        return None
    try:
        return os.open(directory, _UNNAMED | os.O_WRONLY, 0o666)
    except OSError as error:
        if error.errno in _NO_UNNAMED:
            return None
        raise


def _link(handle: int, name: Path, path: Path) -> None:
    """Gives a finished file its name, unless that name is taken."""
    try:
        # The directory handle is not looked at, for the name is absolute, but only with one does
        # Python ask the system to follow the link that an entry of open files is.
        os.link(name, path, src_dir_fd=handle, follow_symlinks=True)
    except FileExistsError:
        raise AlreadyExists(str(path), "a file already exists there") from None
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
