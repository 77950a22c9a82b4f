"""Details of merges that were never published: found, and taken away."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from lego_ray.catalog.changes import Change, Removal
from lego_ray.catalog.commit import commit
from lego_ray.catalog.failures import read_through
from lego_ray.catalog.merges import details_are_there
from lego_ray.catalog.schema import DETAIL_TABLES
from lego_ray.catalog.tables import Catalog
from lego_ray.errors import CatalogError, CatalogNotFound

if TYPE_CHECKING:
    from deltalake import DeltaTable

# Ids a commit: each is in its predicate, and in its list of transactions.
_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class Leftover:
    """A merge's rows in one table of details.

    Attributes:
        table: Name of the table.
        merge_id: The merge, which has no row in `merges`.
        rows: How many there are.
        version: The version its id had among the table's transactions; see `details_are_there`.
    """

    table: str
    merge_id: str
    rows: int
    version: int


def find_leftovers(catalog: Catalog, older_than: timedelta) -> tuple[list[Leftover], list[str]]:
    """Finds details that have waited for their merge's row for some time.

    Args:
        catalog: Where to look.
        older_than: How long; a run that publishes now has details that wait too, for seconds.

    Returns:
        What was found, and sentences on what could not be looked at.

    Raises:
        StorageError: If the store could not be reached or refused access.
    """
    past = catalog.as_of(datetime.now(UTC) - older_than)
    found: list[Leftover] = []
    unseen: list[str] = []
    for table in sorted(DETAIL_TABLES):
        try:
            then = past.open(table)
            waiting = past.whole(table)
            # What is in `merges` now, not then.
            recorded = _recorded(catalog)
            counts = _count(catalog, table, waiting, recorded)
        except CatalogNotFound:
            continue
        except CatalogError as error:
            # A vacuum took files of that state away, before or while they were read.
            unseen.append(str(error))
            continue
        now = catalog.open(table)
        for merge_id, rows in counts.items():
            version = then.transaction_version(merge_id) or 0
            if (now.transaction_version(merge_id) or 0) == version:
                found.append(Leftover(table, merge_id, rows, version))
    return found, unseen


def remove_leftovers(catalog: Catalog, found: Sequence[Leftover]) -> int:
    """Takes details away, except for those of a merge that was published or gone on with meanwhile.

    Args:
        catalog: Where they are.
        found: By `find_leftovers`.

    Returns:
        The rows taken away. Their files are in the store until a vacuum.

    Raises:
        CatalogVersionMismatch: If a table is of another schema version.
        CatalogError: If the commit was refused.
        StorageError: If the store could not be reached or refused access.
    """
    removed = 0
    for table in sorted({each.table for each in found}):
        mine = [each for each in found if each.table == table]
        for start in range(0, len(mine), _AT_ONCE):
            removed += _remove(catalog, table, mine[start : start + _AT_ONCE])
    return removed


def _remove(catalog: Catalog, table: str, found: Sequence[Leftover]) -> int:
    removed = 0

    def change(handle: DeltaTable, again: bool) -> Change | None:
        nonlocal removed
        recorded = _recorded(catalog)
        versions = {each.merge_id: handle.transaction_version(each.merge_id) or 0 for each in found}
        going = [
            e for e in found if versions[e.merge_id] == e.version and e.merge_id not in recorded
        ]
        if not going:
            # Asked again, a try whose answer got lost is done.
            removed = removed if again else 0
            return None
        removed = sum(each.rows for each in going)
        after = tuple((e.merge_id, e.version + 2 - details_are_there(e.version)) for e in going)
        return Removal("merge_id", [each.merge_id for each in going], after)

    def opener() -> DeltaTable:
        return catalog.open_or_create(table)

    commit(opener, change, catalog.table_uri(table))
    return removed


def _recorded(catalog: Catalog) -> set[str]:
    if not catalog.exists("merges"):
        return set()
    return set(catalog.read("merges", ["merge_id"])["merge_id"].to_pylist())


def _count(
    catalog: Catalog, table: str, rows: ds.Dataset, recorded: Collection[str]
) -> dict[str, int]:
    """Rows of each merge that is not recorded, batch by batch: all ids at once may be gigabytes."""
    unknown = ~pc.field("merge_id").isin(pa.array(sorted(recorded), pa.string()))

    def counted() -> dict[str, int]:
        counts: dict[str, int] = {}
        for batch in rows.to_batches(columns=["merge_id"], filter=unknown):
            for pair in pc.value_counts(batch["merge_id"]).to_pylist():
                counts[pair["values"]] = counts.get(pair["values"], 0) + pair["counts"]
        return counts

    return read_through(catalog.table_uri(table), counted)
