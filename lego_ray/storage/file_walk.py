"""Walks a directory tree in key order."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime

from lego_ray.errors import AccessDenied
from lego_ray.storage.base import Denied, ObjectInfo
from lego_ray.storage.file_errors import disk_errors

TEMPORARY = ".lego-ray-tmp-"
"""How the names of files still being written start."""


def walk(root: str, prefix: str, denied: Denied | None = None) -> Iterator[ObjectInfo]:
    """Yields the regular files of a tree in key order, reading only directories that can match.

    Follows symbolic links, but not into a directory that the link lies in. What vanishes during
    the walk, and links that lead nowhere, are left out.

    Args:
        root: The directory, absolute.
        prefix: How keys must start.
        denied: Called with the key of each directory below the root that must not be read, and the
            error; it is passed over then.

    Raises:
        AccessDenied: If the root must not be read or, without `denied`, a directory that can match.
    """
    yield from _walk(root, "", prefix, frozenset(), denied)


def described(key: str, entry: os.stat_result) -> ObjectInfo:
    """What a file's status says of it as an object.

    Args:
        key: The file's, relative to the store's root.
        entry: Its status.
    """
    written = datetime.fromtimestamp(entry.st_mtime, UTC)
    stamp = f"{entry.st_ino}-{entry.st_ctime_ns}"
    return ObjectInfo(key, entry.st_size, f"{entry.st_size}-{entry.st_mtime_ns}", written, stamp)


def _walk(
    directory: str,
    base: str,
    prefix: str,
    above: frozenset[tuple[int, int]],
    denied: Denied | None,
) -> Iterator[ObjectInfo]:
    try:
        identity, found = _listed(directory, base, prefix)
    except AccessDenied as error:
        if denied is None or not base:
            raise
        denied(base[:-1], error)
        return
    if identity is None or identity in above:
        return
    above |= {identity}
    for key, entry in sorted(found, key=lambda item: item[0]):
        if key.endswith("/"):
            yield from _walk(f"{directory}/{key[len(base) : -1]}", key, prefix, above, denied)
        elif stat.S_ISREG(entry.st_mode) and key.startswith(prefix):
            yield described(key, entry)


def _listed(
    directory: str, base: str, prefix: str
) -> tuple[tuple[int, int] | None, list[tuple[str, os.stat_result]]]:
    """What tells a directory from others, and its entries; none if it has vanished."""
    with disk_errors(directory):
        try:
            here = os.stat(directory)  # noqa: PTH116 - a walk of strings, several times faster
            names = os.listdir(directory)  # noqa: PTH208
        except (FileNotFoundError, NotADirectoryError):
            return None, []
    found: list[tuple[str, os.stat_result]] = []
    for name in names:
        key = base + name
        if name.startswith(TEMPORARY) or not _can_match(key, prefix):
            continue
        with disk_errors(f"{directory}/{name}"):
            try:
                entry = os.stat(f"{directory}/{name}")  # noqa: PTH116
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                if error.errno == errno.ELOOP:
                    continue
                raise
        # A directory sorts as its keys do: "a-b" < "a.txt" < "a/c".
        found.append((key + "/" if stat.S_ISDIR(entry.st_mode) else key, entry))
    return (here.st_dev, here.st_ino), found


def _can_match(key: str, prefix: str) -> bool:
    """Whether this file, or one below this directory, may start with the prefix."""
    return key.startswith(prefix) or prefix.startswith(key + "/")
