"""Fewer, larger files in a table."""

from __future__ import annotations

from dataclasses import dataclass

from lego_ray.catalog.failures import explain
from lego_ray.catalog.tables import Catalog


@dataclass(frozen=True, slots=True)
class Compacted:
    """What was done to one table.

    Attributes:
        table: Its name.
        files_before: Data files it was made of.
        files_after: Data files it is made of now.
    """

    table: str
    files_before: int
    files_after: int


def compact(catalog: Catalog, table: str) -> Compacted:
    """Rewrites a table's small files into large ones; no row changes, and others may append.

    The former files stay for who reads them, until a vacuum. A table that is compact is left alone.

    Args:
        catalog: Which catalog.
        table: Name of the table.

    Raises:
        CatalogNotFound: If there is no such table yet.
        CatalogError: If another change took rows away meanwhile; run again.
        StorageError: If the store could not be reached or refused access.
    """
    handle = catalog.open(table)
    with explain(catalog.table_uri(table)):
        version, before = handle.version(), len(handle.file_uris())
        handle.optimize.compact()
        if handle.version() != version:
            # Who opens the table next reads its log from here.
            handle.create_checkpoint()
        return Compacted(table, before, len(handle.file_uris()))
