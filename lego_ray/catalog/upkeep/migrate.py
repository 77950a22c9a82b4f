"""Brings a catalog of an earlier release up to this one's schema."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from lego_ray.catalog.changes import Change, NewColumns, Properties
from lego_ray.catalog.commit import commit
from lego_ray.catalog.schema import SCHEMA_VERSION, TABLES
from lego_ray.catalog.tables import Catalog
from lego_ray.catalog.versions import VERSION_KEY, version_of

if TYPE_CHECKING:
    from deltalake import DeltaTable


@dataclass(frozen=True, slots=True)
class Migrated:
    """What was done to one table.

    Attributes:
        table: Its name.
        version_before: Its schema version before; the present one if nothing was to be done.
        added: Names of the columns it got, null in the rows there were.
    """

    table: str
    version_before: int
    added: tuple[str, ...]


def migrate(catalog: Catalog) -> list[Migrated]:
    """Adds what columns are missing from each table, and says which schema version it is of now.

    No file of rows is written or removed, so readers and time travel go on as before. Earlier
    releases can no longer write; a writer of theirs that is running gets an error that says to
    upgrade. If it is cut short, or another process migrates at the same time, call it again.

    Args:
        catalog: Which catalog.

    Raises:
        CatalogNotFound: If the catalog has no table yet.
        CatalogVersionMismatch: If a table is of a later release.
        StorageError: If the store could not be reached or refused access.
    """
    return [_migrate(catalog, table) for table in catalog.required_tables()]


def _migrate(catalog: Catalog, table: str) -> Migrated:
    uri = catalog.table_uri(table)
    before = version_of(catalog.open(table))
    added: list[str] = []

    def missing(handle: DeltaTable) -> list[pa.Field]:
        there = {field.name for field in handle.schema().fields}
        return [field for field in TABLES[table].schema if field.name not in there]

    def columns(handle: DeltaTable, again: bool) -> Change | None:
        del again  # A try whose answer got lost left no column missing.
        fields = missing(handle)
        added.extend(field.name for field in fields if field.name not in added)
        return NewColumns(pa.schema(fields)) if fields else None

    def version(handle: DeltaTable, again: bool) -> Change | None:
        del again
        if version_of(handle) >= SCHEMA_VERSION:
            return None
        return Properties({VERSION_KEY: str(SCHEMA_VERSION)})

    # The version last: a table that says it is of this one has its columns.
    for step in (columns, version):
        commit(lambda: catalog.open(table), step, uri)
    return Migrated(table, before, tuple(added))
