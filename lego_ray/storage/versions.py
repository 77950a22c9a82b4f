"""The error for an object that is not the version that was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lego_ray.errors import ObjectNotFound, SourceChanged
from lego_ray.storage.base import Store


def changed(where: str) -> SourceChanged:
    """The error of an object that was written again.

    Args:
        where: Its URI.
    """
    return SourceChanged(where, "it was replaced or rewritten after it was scanned")


@contextmanager
def present(where: str, version: str | None) -> Iterator[None]:
    """For a block that reads a version of an object: that it is gone is a change as well.

    Args:
        where: The object's URI.
        version: The version, or None for a block that reads whatever is there.

    Raises:
        SourceChanged: If a version is given and there is no such object.
    """
    try:
        yield
    except ObjectNotFound as error:
        if version is None:
            raise
        raise SourceChanged(
            where, f"it was there when it was scanned, and now {error.problem}"
        ) from (error)


def check_unchanged(store: Store, key: str, where: str, version: str, changed_at: str) -> None:
    """Passes an object that is the one that was looked at before.

    On disk the version is the size and the time of writing, which another file may have too: one
    unpacked from an archive, copied with its time, or put back by a tool. The time of the last status
    change cannot be set by a program.

    Args:
        store: Its store.
        key: Its key.
        where: Its URI, for the error.
        version: The version that it had.
        changed_at: When its status had last changed; empty if its store does not say.

    Raises:
        SourceChanged: If it was replaced, rewritten or deleted.
        StorageError: If its store cannot be asked.
    """
    with present(where, version):
        found = store.stat(key)
    if found.version != version or (changed_at and found.changed_at != changed_at):
        raise changed(where)
