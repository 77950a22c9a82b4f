"""Upkeep: fewer, larger files in a table, and none that no reader needs."""

from __future__ import annotations

from dataclasses import dataclass

from lego_ray.catalog.location import explain
from lego_ray.catalog.tables import Catalog
from lego_ray.errors import InvalidOption

# A reader may hold on to a former state, and a writer to files it has not committed yet, for this
# long: Delta Lake's own default.
RETENTION_HOURS = 168


@dataclass(frozen=True, slots=True)
class Compacted:
    """What was done to one table.

    Attributes:
        table: Its name.
        files_before: Data files it was made of.
        files_after: Data files it is made of now.
        files_removed: Files deleted from the store, of former states and of writers that crashed.
    """

    table: str
    files_before: int
    files_after: int
    files_removed: int


def compact(catalog: Catalog, table: str, retention_hours: int = RETENTION_HOURS) -> Compacted:
    """Rewrites a table's small files into large ones; no row changes, and others may append.

    Args:
        catalog: Which catalog.
        table: Name of the table.
        retention_hours: Age below which files out of use are left in place, for readers and
            writers that still have them open.

    Raises:
        CatalogNotFound: If there is no such table yet.
        CatalogError: If another change took rows away meanwhile; run again.
        InvalidOption: If the retention is negative.
        StorageError: If the store could not be reached or refused access.
    """
    if retention_hours < 0:
        raise InvalidOption("--retention-hours", f"got {retention_hours}, expected 0 or more")
    handle = catalog.open(table)
    with explain(catalog.table_uri(table)):
        before = len(handle.file_uris())
        handle.optimize.compact()
        removed = handle.vacuum(
            retention_hours, dry_run=False, enforce_retention_duration=False, full=True
        )
        handle.create_checkpoint()
        return Compacted(table, before, len(handle.file_uris()), len(removed))
