"""The `groups` table: which adapters were merged together because their updates are alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from lego_ray.catalog.changes import Change, Rows
from lego_ray.catalog.commit import commit
from lego_ray.catalog.rows import Row, conform
from lego_ray.catalog.schema import TABLES
from lego_ray.catalog.tables import Catalog
from lego_ray.catalog.tenure import Tenure
from lego_ray.errors import CatalogError

if TYPE_CHECKING:
    from deltalake import DeltaTable

_TABLE = "groups"


def record_groups(
    catalog: Catalog,
    rows: pa.Table | Sequence[Row],
    tenure: Tenure | None = None,
    *,
    former_id: str = "",
) -> None:
    """Records one grouping, once: under the same grouping_id nothing is written again.

    Args:
        catalog: Where to.
        rows: Its rows, all of one grouping_id; none for nothing to write.
        tenure: The turn that it is recorded in, if there are turns; its number is part of the commit.
        former_id: The grouping_id that an earlier release gave it, under which it may be recorded.

    Raises:
        CatalogError: If a row does not fit the columns, or they are of several groupings.
        RunFailed: If a later turn has begun; nothing is written.
        StorageError: If the store could not be reached or refused access.
    """
    found = conform(_TABLE, rows)
    ids = pc.unique(found["grouping_id"]).to_pylist()
    if len(ids) > 1:
        raise CatalogError(f"{_TABLE}.grouping_id", f"the rows are of {len(ids)} groupings")
    if not ids:
        return
    uri = catalog.table_uri(_TABLE)

    def change(handle: DeltaTable, again: bool) -> Change | None:
        del again  # a try whose answer got lost has left the grouping's name
        if tenure is not None:
            tenure.check(uri, handle)
        known = (handle.transaction_version(name) for name in (ids[0], former_id) if name)
        if any(version is not None for version in known):
            return None
        return Rows(found, ((ids[0], 1), *(() if tenure is None else tenure.transactions)))

    commit(lambda: catalog.open_or_create(_TABLE), change, uri)


def group_of_merge(catalog: Catalog, merge_id: str) -> pa.Table:
    """Rows of the adapters that were put together for a merge, those most like the others first.

    Args:
        catalog: Where to look.
        merge_id: The merge.

    Returns:
        Rows of `groups`; empty if the merge is of no group.
    """
    if not catalog.exists(_TABLE):
        return TABLES[_TABLE].schema.empty_table()
    wanted = pc.field("merge_id") == merge_id
    found = catalog.read(_TABLE, where=wanted)
    return found.sort_by(
        [("grouping_id", "ascending"), ("similarity", "descending"), ("uri", "ascending")]
    )
