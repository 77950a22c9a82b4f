"""The `adapters` table: what scans found, without doubling what is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lego_ray.catalog.changes import Change, Rows
from lego_ray.catalog.commit import commit
from lego_ray.catalog.dataset import table_dataset
from lego_ray.catalog.rows import Row, conform
from lego_ray.catalog.schema import SCHEMA_VERSION
from lego_ray.catalog.tables import Catalog
from lego_ray.catalog.versions import version_of
from lego_ray.errors import CatalogError, CatalogNotFound
from lego_ray.storage.places import Place
from lego_ray.storage.uri import parse_uri

if TYPE_CHECKING:
    from deltalake import DeltaTable

_TABLE = "adapters"
# Every recording commits under this name, so of two at once one must look again at the table:
# a compare-and-swap on the whole of it.
_TRANSACTION = "lego_ray.adapters"

# Columns that say when an adapter must be looked at again, not what it is.
_LOOKS = ("mark", "content_sha256")

_Key = tuple[str, str]


def record_adapters(
    catalog: Catalog, rows: pa.Table | Sequence[Row], *, are_tags_whole: bool = False
) -> int:
    """Records scanned adapters, once each; a scan that found nothing new makes no commit.

    Usable adapters (`ok`) are kept by content and URI, so a rewritten adapter gets a row beside
    its former one. Those turned down are kept by URI. A row that says the same as the one known,
    `scanned_at` apart, is left out; one that says otherwise takes its place. A file that was only
    written again is not new: its row gets the new `mark`, so that the next run need not look again. A
    usable adapter ends its URI's refusal. It ends a quarantine only if its content is new there: a scan
    reads headers, and they cannot tell that the weights got better. Tags of a usable adapter with keys
    that its new row lacks stay: a scan may have had them from a table or from folders.

    Args:
        catalog: Where to.
        rows: Rows of the `adapters` table.
        are_tags_whole: Whether the rows have all tags there are, so that others go.

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
        after, n_changed, n_replaced = fold(known, found, are_tags_whole=are_tags_whole)
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


@dataclass(frozen=True, slots=True)
class KnownAdapters:
    """All rows of the `adapters` table at one moment.

    Attributes:
        rows: The rows.
        is_current: Whether the table is of this release's schema version.
    """

    rows: list[Row]
    is_current: bool

    def seen(self) -> list[Row]:
        """The rows of adapters with an id."""
        return [row for row in self.rows if row["adapter_id"]]

    def count_unrecorded(self, rows: pa.Table | Sequence[Row]) -> int:
        """Counts the rows that `record_adapters` would write or take out.

        New marks of files that were only written again do not count; see `has_new_marks`.

        Args:
            rows: Rows of the `adapters` table.

        Raises:
            CatalogError: If a row does not fit the columns.
        """
        after, n_changed, _ = fold(self.rows, _plain(conform(_TABLE, rows)))
        there = {_key(row) for row in after}
        return max(n_changed, sum(_key(row) not in there for row in self.rows))

    def has_new_marks(self, rows: pa.Table | Sequence[Row]) -> bool:
        """Whether rows of the `adapters` table, as it is, would get other marks, or a content.

        False where the table is of an earlier schema version, which has no place for them.

        Args:
            rows: Rows of the `adapters` table.
        """
        if not self.is_current:
            return False
        _, _, n_replaced = fold(self.rows, _plain(conform(_TABLE, rows)))
        return n_replaced > 0


def known_adapters(catalog: Catalog) -> KnownAdapters:
    """Reads the `adapters` table; it may not be there yet.

    Args:
        catalog: Where to look.

    Raises:
        StorageError: If the store could not be reached or refused access.
    """
    if not catalog.exists(_TABLE):
        return KnownAdapters([], is_current=False)
    is_current = version_of(catalog.open(_TABLE)) >= SCHEMA_VERSION
    return KnownAdapters(_plain(catalog.read(_TABLE)), is_current)


def seen_adapters(catalog: Catalog) -> list[Row]:
    """Rows of adapters with an id: that, `uri`, `mark`, `content_sha256` and `scanned_at` of each.

    Args:
        catalog: Where to look; it may hold no adapters yet.

    Raises:
        StorageError: If the store could not be reached or refused access.
    """
    if not catalog.exists(_TABLE):
        return []
    found = catalog.read(_TABLE, ["adapter_id", "uri", "mark", "content_sha256", "scanned_at"])
    return [row for row in found.to_pylist() if row["adapter_id"]]


def fold(
    known: Sequence[Row], found: Sequence[Row], *, are_tags_whole: bool = False
) -> tuple[list[Row], int, int]:
    """Folds newly found rows into those known; see `record_adapters` for the rules.

    Args:
        known: Rows of the table.
        found: Rows to record; of two with one key the later counts.
        are_tags_whole: As for `record_adapters`.

    Returns:
        The rows of the table afterwards, those of `known` that stay in their order and then the
        new ones; how many of them are new or changed, marks apart; and how many of `known` are gone or
        changed, be it only in their mark.
    """
    after = {_key(row): row for row in known}
    marked: set[int] = set()
    for new in found:
        row, key = new, _key(new)
        before = after.get(key)
        if row["status"] == "ok":
            turned_down = after.get(("", row["uri"]))
            if turned_down and (turned_down["status"] == "refused" or before is None):
                del after[("", row["uri"])]
        if before is not None and before["tags"] and not are_tags_whole:
            row = {**row, "tags": {**before["tags"], **(row["tags"] or {})}}
        if before is None or _content(before) != _content(row):
            after[key] = row if before is None else {**row, **_looked_at(before, row)}
        elif _looked_at(before, row) != {name: before[name] for name in _LOOKS}:
            after[key] = {**before, **_looked_at(before, row)}
            marked.add(id(after[key]))
    originals = {id(row) for row in known}
    n_kept = sum(id(row) in originals for row in after.values())
    n_marked = sum(id(row) in marked for row in after.values())
    return list(after.values()), len(after) - n_kept - n_marked, len(known) - n_kept


def _looked_at(before: Row, row: Row) -> dict[str, Any]:
    """The mark and content of a row that takes another's place: a content once known stays known.

    A new mark without a content, where one was known, is of a file that was not read: the old mark
    stays, so that the next run reads it.
    """
    if before["adapter_id"] != row["adapter_id"]:  # two that were turned down, one after the other
        return {name: row[name] for name in _LOOKS}
    content = before["content_sha256"] or row["content_sha256"]
    unread = row["mark"] is None or (before["content_sha256"] and not row["content_sha256"])
    return {"mark": before["mark"] if unread else row["mark"], "content_sha256": content}


def _key(row: Row) -> _Key:
    return (row["adapter_id"] if row["status"] == "ok" else "", row["uri"])


def _content(row: Row) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ("scanned_at", *_LOOKS)}


def _plain(table: pa.Table) -> list[Row]:
    # Maps come back as lists of pairs, in the order they were written in.
    return [
        {**row, "tags": None if row["tags"] is None else dict(row["tags"])}
        for row in table.to_pylist()
    ]


def adapter_places(catalog: Catalog) -> tuple[Place, ...]:
    """The places of the adapters that scans found usable, sorted by URI.

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
    uris = {row["uri"] for row in rows if row["status"] == "ok"}
    return tuple(parse_uri(uri) for uri in sorted(uris))
