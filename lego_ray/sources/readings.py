"""What one run has read of adapters, for its next scan: only files that changed since are read again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lego_ray.planning.recipe import digest_of
from lego_ray.sources.adapter_headers import Reading
from lego_ray.sources.beside import WEIGHTS_ENDINGS
from lego_ray.sources.find import Found
from lego_ray.sources.readings_file import Kept
from lego_ray.sources.weights_table import WeightsTable

Marks = tuple[object, ...]


class Readings:
    """Readings by the marks of the files that they are of. Safe to share between threads.

    For one run: the options of all its scans must be the same.
    """

    def __init__(self) -> None:
        self._known: dict[Marks, Reading] = {}
        self._recalled: Mapping[str, Kept] = {}

    def recall(self, recalled: Mapping[str, Kept]) -> None:
        """Takes what an earlier run kept.

        Args:
            recalled: What `to_keep` gave then, with the same options and the same release.
        """
        self._recalled = recalled

    def of(self, found: Found, initial: Found | None = None) -> Reading | None:
        """What was read of a place, if the listing shows that nothing of it was written since.

        Args:
            found: The place, as it is listed now.
            initial: Where the adapter is as it was saved before training, if it is anywhere.
        """
        marks = _marks(found, initial)
        if marks not in self._known and self._recalled:
            kept = self._recalled.get(digest_of(marks))
            if kept is not None:
                table = None if kept.metadata is None else WeightsTable((), kept.metadata, b"")
                self._known[marks] = Reading(found, kept.result, table=table)
        return self._known.get(marks)

    def keep(self, reading: Reading, initial: Found | None = None) -> None:
        """Keeps what was read of a place, without the bytes that only its reading needed.

        Args:
            reading: What was read.
            initial: As for `of`.
        """
        table = reading.table and replace(reading.table, spans=(), first=b"")
        slim = replace(reading, config=None, headers=None, table=table)
        self._known[_marks(reading.found, initial)] = slim

    def to_keep(self) -> dict[str, Kept] | None:
        """All that this run read or recalled, by the digest of its marks; None if all was recalled.

        What may be read in another way though no file changes is left out.
        """
        kept = {
            digest_of(marks): Kept(
                reading.result, reading.table.metadata if reading.table else None
            )
            for marks, reading in self._known.items()
            if reading.is_lasting
        }
        return None if kept.keys() == self._recalled.keys() else kept


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
