"""The error for an object that is not the version that was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lego_ray.errors import ObjectNotFound, SourceChanged


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
