"""The `groups` table: which adapters were merged together because their updates are alike."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from lego_ray.catalog.rows import Row, conform
from lego_ray.catalog.schema import TABLES
from lego_ray.catalog.tables import Catalog
from lego_ray.errors import CatalogError

_TABLE = "groups"


def record_groups(catalog: Catalog, rows: pa.Table | Sequence[Row], *, former_id: str = "") -> None:
    """Records one grouping, once: under the same grouping_id nothing is written again.

    Args:
        catalog: Where to.
        rows: Its rows, all of one grouping_id; none for nothing to write.
        former_id: The grouping_id that an earlier release gave it, under which it may be recorded.

    Raises:
        CatalogError: If a row does not fit the columns, or they are of several groupings.
        StorageError: If the store could not be reached or refused access.
    """
    found = conform(_TABLE, rows)
    ids = pc.unique(found["grouping_id"]).to_pylist()
    if len(ids) > 1:
        raise CatalogError(f"{_TABLE}.grouping_id", f"the rows are of {len(ids)} groupings")
    if former_id and catalog.exists(_TABLE):
        is_known = catalog.open(_TABLE).transaction_version(former_id) is not None
        ids = [] if is_known else ids
    if ids:
        catalog.append(_TABLE, found, idempotency=(ids[0], 1))


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
