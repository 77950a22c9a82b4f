"""What one run has read of adapters, for its next scan: only files that changed since are read again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lego_ray.sources.beside import WEIGHTS_ENDINGS
from lego_ray.sources.find import Found

if TYPE_CHECKING:
    from lego_ray.sources.adapter_headers import Reading

Marks = tuple[object, ...]


class Readings:
    """Readings by the marks of the files that they are of. Safe to share between threads.

    For one run: the options of all its scans must be the same.
    """

    def __init__(self) -> None:
        self._known: dict[Marks, Reading] = {}

    def of(self, found: Found, initial: Found | None = None) -> Reading | None:
        """What was read of a place, if the listing shows that nothing of it was written since.

        Args:
            found: The place, as it is listed now.
            initial: Where the adapter is as it was saved before training, if it is anywhere.
        """
        return self._known.get(_marks(found, initial))

    def keep(self, reading: Reading, initial: Found | None = None) -> None:
        """Keeps what was read of a place, without the bytes that only its reading needed.

        Args:
            reading: What was read.
            initial: As for `of`.
        """
        table = reading.table and replace(reading.table, spans=(), first=b"")
        slim = replace(reading, config=None, headers=None, table=table)
        self._known[_marks(reading.found, initial)] = slim


def _marks(found: Found, initial: Found | None) -> Marks:
    return (*marks_of(found), *(marks_of(initial) if initial else ()))


def marks_of(found: Found) -> Marks:
    """Everything in a listing that a place's reading, and what is noted of it, depends on.

    Files beside an adapter count by their names alone, and only those that may hold weights: a trainer's
    logs grow all the time.

    Args:
        found: The place.
    """
    files = [info and info.mark for info in (found.config, found.weights, found.card)]
    beside = [name for name in sorted(found.beside) if name.lower().endswith(WEIGHTS_ENDINGS)]
    files += [found.sidecar.mark] if found.sidecar else []
    return (found.uri, found.only, found.is_trained_here, *files, *beside)
