"""The `adapters` table: what scans found, without doubling what is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lego_ray.catalog.changes import Change, Rows
from lego_ray.catalog.commit import commit
from lego_ray.catalog.dataset import table_dataset
from lego_ray.catalog.rows import Row, conform
from lego_ray.catalog.tables import Catalog
from lego_ray.errors import CatalogError, CatalogNotFound

if TYPE_CHECKING:
    from deltalake import DeltaTable

_TABLE = "adapters"
# Every recording commits under this name, so of two at once one must look again at the table:
# a compare-and-swap on the whole of it.
_TRANSACTION = "lego_ray.adapters"

_Key = tuple[str, str]


def record_adapters(catalog: Catalog, rows: pa.Table | Sequence[Row]) -> int:
    """Records scanned adapters, once each; a scan that found nothing new makes no commit.

    Usable adapters (`ok`) are kept by content and URI, so a rewritten adapter gets a row beside
    its former one. Those turned down are kept by URI. A row that says the same as the one known,
    `scanned_at` apart, is left out; one that says otherwise takes its place. A usable adapter
    ends its URI's refusal. It ends a quarantine only if its content is new there: a scan reads
    headers, and they cannot tell that the weights got better.

    Args:
        catalog: Where to.
        rows: Rows of the `adapters` table.

    Returns:
        The number of rows new or changed.

    Raises:
        CatalogError: If a row does not fit the columns, or is `ok` without an adapter_id.
        StorageError: If the store could not be reached or refused access.
    """
    found = _plain(conform(_TABLE, rows))
    for row in found:
        if row["status"] == "ok" and not row["adapter_id"]:
            raise CatalogError(row["uri"], "its status is ok and it has no adapter_id")
    if not found:
        return 0
    n_written = 0

    def change(handle: DeltaTable, again: bool) -> Change | None:
        nonlocal n_written
        del again  # Rows that an earlier try left behind are known now, like any other's.
        n_written = 0
        known = _plain(table_dataset(handle, catalog.filesystem(_TABLE)).to_table())
        after, n_changed, n_replaced = fold(known, found)
        if not n_changed and not n_replaced:
            return None
        n_written = n_changed
        version = (handle.transaction_version(_TRANSACTION) or 0) + 1
        swap = ((_TRANSACTION, version),)
        if n_replaced:
            return Rows(conform(_TABLE, after), swap, mode="overwrite")
        return Rows(conform(_TABLE, after[len(known) :]), swap)

    commit(lambda: catalog.open_or_create(_TABLE), change, catalog.table_uri(_TABLE))
    return n_written


def count_unrecorded(catalog: Catalog, rows: pa.Table | Sequence[Row]) -> int:
    """Counts the rows that `record_adapters` would write or take out, and writes nothing.

    Args:
        catalog: Where to look.
        rows: Rows of the `adapters` table.

    Raises:
        CatalogError: If a row does not fit the columns.
        StorageError: If the store could not be reached or refused access.
    """
    found = _plain(conform(_TABLE, rows))
    known = _plain(catalog.read(_TABLE)) if catalog.exists(_TABLE) else []
    _, n_changed, n_replaced = fold(known, found)
    return max(n_changed, n_replaced)


def fold(known: Sequence[Row], found: Sequence[Row]) -> tuple[list[Row], int, int]:
    """Folds newly found rows into those known; see `record_adapters` for the rules.

    Args:
        known: Rows of the table.
        found: Rows to record; of two with one key the later counts.

    Returns:
        The rows of the table afterwards, those of `known` that stay in their order and then the
        new ones; how many of them are new or changed; and how many of `known` are gone or changed.
    """
    after = {_key(row): row for row in known}
    for row in found:
        key = _key(row)
        before = after.get(key)
        if row["status"] == "ok":
            turned_down = after.get(("", row["uri"]))
            if turned_down and (turned_down["status"] == "refused" or before is None):
                del after[("", row["uri"])]
        if before is None or _content(before) != _content(row):
            after[key] = row
    originals = {id(row) for row in known}
    n_kept = sum(id(row) in originals for row in after.values())
    return list(after.values()), len(after) - n_kept, len(known) - n_kept


def _key(row: Row) -> _Key:
    return (row["adapter_id"] if row["status"] == "ok" else "", row["uri"])


def _content(row: Row) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "scanned_at"}


def _plain(table: pa.Table) -> list[Row]:
    # Maps come back as lists of pairs, in the order they were written in.
    return [
        {**row, "tags": None if row["tags"] is None else dict(row["tags"])}
        for row in table.to_pylist()
    ]


def adapter_places(catalog: Catalog) -> tuple[str, ...]:
    """URIs of the adapters that scans found usable, sorted.

    Args:
        catalog: Where they are recorded.

    Raises:
        CatalogNotFound: If nothing was ever scanned into it.
    """
    if _TABLE not in catalog.tables():
        raise CatalogNotFound(
            catalog.uri, "it lists no adapters", "Run `lego-ray scan` first, or name sources."
        )
    rows = catalog.read(_TABLE, ["uri", "status"]).to_pylist()
    return tuple(sorted({row["uri"] for row in rows if row["status"] == "ok"}))
