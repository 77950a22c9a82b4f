"""What the operating system's errors mean."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lego_ray.errors import (
    AccessDenied,
    NoSpaceLeft,
    ObjectNotFound,
    StorageError,
    StoreUnavailable,
)

_FULL = (errno.ENOSPC, errno.EDQUOT)
TOO_LARGE = (
    "Raise the limit (`ulimit -f`) or write to another disk, then run the same command again: finished "
    "work is kept."
)
_AWAY = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENODEV, errno.ENXIO, errno.EHOSTDOWN)


@contextmanager
def disk_errors(where: str) -> Iterator[None]:
    """Turns an `OSError` of the block into the error that says what it means.

    Args:
        where: The path available.

    Raises:
        ObjectNotFound: If there is no such file, or it is a directory.
        AccessDenied: If its permissions do not allow this, or the disk is read-only.
        NoSpaceLeft: If the disk is full, or the file larger than this process or the disk may have.
        StoreUnavailable: If the disk is broken or gone.
        StorageError: If it is anything else.
    """
    try:
        yield
    except OSError as error:
        raise _meaning(where, error) from error


def _meaning(where: str, error: OSError) -> StorageError:
    said = error.strerror or str(error)
    if isinstance(error, FileNotFoundError):
        return ObjectNotFound(where, "there is no such file")
    if isinstance(error, IsADirectoryError):
        return ObjectNotFound(where, "this is a directory, not a file")
    if isinstance(error, NotADirectoryError | FileExistsError):
        return _no_directory(where)
    if isinstance(error, PermissionError):
        return AccessDenied(where, f"the system refused: {said}", "Check owner and permissions.")
    if error.errno == errno.EROFS:
        return AccessDenied(where, "the file system is read-only", "Write somewhere else.")
    if error.errno in _FULL:
        return NoSpaceLeft(where, f"no space left: {said}")
    if error.errno == errno.EFBIG:
        problem = f"this process, or the file system, may not write a file as large: {said}"
        return NoSpaceLeft(where, problem, TOO_LARGE)
    if error.errno in _AWAY:
        return StoreUnavailable(where, f"the disk failed: {said}", "Check the disk or its mount.")
    if error.errno == errno.ELOOP:
        return ObjectNotFound(where, "it is a link that leads back to itself", "Remove the link.")
    hint = "Give a shorter path." if error.errno == errno.ENAMETOOLONG else ""
    return StorageError(where, f"the system refused: {said}", hint)


def _no_directory(where: str) -> ObjectNotFound:
    """The error of a path that leads through something else than directories, by its name."""
    path = Path(where)
    with suppress(OSError):  # what it is may change meanwhile
        for part in reversed((path, *path.parents)):
            if part.is_symlink() and not part.exists():
                problem = f"{part} is a link to {part.readlink()}, which does not exist"
                return ObjectNotFound(
                    where, problem, "Create what it leads to, or remove the link."
                )
            if part.exists() and not part.is_dir():
                return ObjectNotFound(where, f"{part} is a file, not a directory")
    return ObjectNotFound(where, "a part of this path is a file, not a directory")
