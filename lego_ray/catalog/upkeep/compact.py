"""Fewer, larger files in a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lego_ray.catalog.changes import Change, Replacement
from lego_ray.catalog.commit import commit
from lego_ray.catalog.data_files import DataFile, write_data_file
from lego_ray.catalog.dataset import stored_schema, table_dataset
from lego_ray.catalog.failures import explain
from lego_ray.catalog.reading import filesystem_of
from lego_ray.catalog.rewriting import active_files, check_plain, rows_of
from lego_ray.catalog.tables import Catalog
from lego_ray.errors import CatalogError

if TYPE_CHECKING:
    from deltalake import DeltaTable

# Delta Lake's own default. Files are gathered up to this size, and one of it is left as it is.
TARGET_BYTES = 100 << 20
# Looks at the table after others replaced files that were being rewritten.
_ROUNDS = 10


@dataclass(frozen=True, slots=True)
class Compacted:
    """What was done to one table.

    Attributes:
        table: Its name.
        files_before: Data files it was made of.
        files_after: Data files it is made of now.
        by_others: Data files that another process replaced while this one rewrote them; what this one
            made of them was dropped.
    """

    table: str
    files_before: int
    files_after: int
    by_others: int = 0


def compact(catalog: Catalog, table: str) -> Compacted:
    """Rewrites a table's small files into large ones; no row changes, and others may go on writing.

    Files take the place of others only if all of those are in the table at that moment. Of several
    compactions at once each file is replaced by one; the others drop what they made of it, look again,
    and find less or nothing to do. The former files stay for who reads them, until a vacuum. A table
    that is compact is left alone.

    Args:
        catalog: Which catalog.
        table: Name of the table.

    Raises:
        CatalogNotFound: If there is no such table yet.
        CatalogError: If a file is damaged, or the commit was refused.
        StorageError: If the store could not be reached or refused access.
    """
    handle = catalog.open(table)
    before = len(active_files(handle))
    changed = False
    by_others = 0
    for _ in range(_ROUNDS):
        overtaken = 0
        for names in _bins(active_files(handle)):
            if _replace(catalog, table, handle, names):
                changed = True
            else:
                overtaken += len(names)
        by_others += overtaken
        handle = catalog.open(table)
        if not overtaken:
            break
    if changed:
        # Who opens the table next reads its log from here.
        with explain(catalog.table_uri(table)):
            handle.create_checkpoint()
    return Compacted(table, before, len(active_files(handle)), by_others)


def _bins(sizes: dict[str, int]) -> list[list[str]]:
    """Files to be written as one, two at least, in the order in which the log has them."""
    bins: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if size >= TARGET_BYTES:
            continue
        if filled + size > TARGET_BYTES:
            bins.append([])
            filled = 0
        bins[-1].append(name)
        filled += size
    return [names for names in bins if len(names) > 1]


def _replace(catalog: Catalog, table: str, handle: DeltaTable, names: Sequence[str]) -> bool:
    """Puts one file in the place of several; False if another process replaced one of them first."""
    uri = catalog.table_uri(table)
    try:
        with explain(uri):
            made = _write(handle, names)
    except CatalogError:
        # Another process replaced one, and a vacuum took it away before it was read.
        if _are_there(catalog.open(table), names):
            raise
        return False
    done = False

    def change(handle: DeltaTable, again: bool) -> Change | None:
        nonlocal done
        del again
        # A try whose answer got lost has put the file there.
        done = made is not None and made.name in active_files(handle)
        if done or not _are_there(handle, names):
            return None
        done = True
        return Replacement(names, made)

    commit(lambda: catalog.open(table), change, uri)
    return done


def _write(handle: DeltaTable, names: Sequence[str]) -> DataFile | None:
    check_plain(handle)
    files = filesystem_of(handle)
    stored = table_dataset(handle, files, stored_schema(handle))
    parts = {part.path: part for part in stored.get_fragments()}
    rows = rows_of((parts[name] for name in names), stored.schema)
    return write_data_file(handle, stored.schema, rows)


def _are_there(handle: DeltaTable, names: Sequence[str]) -> bool:
    return set(names) <= active_files(handle).keys()
