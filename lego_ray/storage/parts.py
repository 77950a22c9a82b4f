"""An object's bytes in parts, for objects that need not fit in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lego_ray.errors import StorageError


def of_size(where: str, size: int, parts: Iterable[bytes]) -> Iterator[bytes]:
    """The parts as they are; raises at their end if they have another size together.

    Args:
        where: The object's URI, for the error.
        size: Bytes of all parts.
        parts: The parts, in order.

    Raises:
        StorageError: If there are more or fewer bytes.
    """
    done = 0
    for part in parts:
        done += len(part)
        if done > size:
            break
        yield part
    if done != size:
        raise StorageError(
            where,
            f"{size} bytes were to be written, and what was made has {'more' if done > size else done}",
            "Run the same command again; if it fails again, report it.",
        )


def regrouped(parts: Iterable[bytes], size: int) -> Iterator[bytes]:
    """The same bytes in parts of one size, the last of which may be shorter.

    Args:
        parts: The parts, in order.
        size: Bytes of each part that comes out, at least 1.
    """
    waiting = bytearray()
    for part in parts:
        left = memoryview(part)
        while left:
            taken = left[: size - len(waiting)]
            waiting += taken
            left = left[len(taken) :]
            if len(waiting) == size:
                yield bytes(waiting)
                waiting = bytearray()
    if waiting:
        yield bytes(waiting)
