"""Recording a merge: its details first, its row in `merges` last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from lego_ray.catalog.commit import Change, commit
from lego_ray.catalog.rows import Row, conform
from lego_ray.catalog.tables import Catalog
from lego_ray.errors import CatalogError

if TYPE_CHECKING:
    from deltalake import DeltaTable


def append_merge(
    catalog: Catalog,
    merge: Row,
    sites: pa.Table | Sequence[Row],
    msus: pa.Table | Sequence[Row],
) -> bool:
    """Records a merge, once: its row in `merges` is the commit point.

    Readers of the catalog see no detail of a merge before that row. Call it again after a crash at
    any point: what is there is left as it was, and what is missing is added.

    Args:
        catalog: Where to.
        merge: The row of `merges`. Without a `version` it gets the next one of its name.
        sites: Rows of `merge_sites`.
        msus: Rows of `msus`; empty if the method keeps none.

    Returns:
        Whether the merge was recorded by this call; False if it was there already.

    Raises:
        CatalogError: If a row does not fit the columns or belongs to another merge; nothing was
            written.
        StorageError: If the store could not be reached or refused access.
    """
    merge_id = merge.get("merge_id")
    # A version stands in for the one to be given, so that all rows are checked before any is
    # written.
    row = conform("merges", [{**merge, "version": merge.get("version") or 0}])
    details = {"msus": conform("msus", msus), "merge_sites": conform("merge_sites", sites)}
    for table, rows in details.items():
        if not pc.all(pc.equal(rows["merge_id"], merge_id), min_count=0).as_py():
            raise CatalogError(f"{table}.merge_id", f"some rows are not of merge {merge_id}")
    for table, rows in details.items():
        catalog.append(table, rows, idempotency=(str(merge_id), 1))

    recorded = False

    def change(handle: DeltaTable, again: bool) -> Change | None:
        nonlocal recorded
        if handle.transaction_version(str(merge_id)) is not None:
            # Asked again, the row is most likely of another who raced us; it may be ours, by a try
            # whose answer got lost. It is there once in either case.
            recorded = False
            return None
        recorded = True
        data = row
        if merge.get("version") is None:
            data = conform("merges", [{**merge, "version": _next_version(handle, catalog, merge)}])
        name, version = data["name"][0].as_py(), data["version"][0].as_py()
        # The second name keeps two merges that race from getting one version.
        return Change(data, ((str(merge_id), 1), (f"name:{name}", version)))

    commit(lambda: catalog.open_or_create("merges"), change, catalog.table_uri("merges"))
    return recorded


def _next_version(handle: DeltaTable, catalog: Catalog, merge: Row) -> int:
    table = handle.to_pyarrow_table(
        columns=["name", "version"], filesystem=catalog.filesystem("merges")
    )
    versions = table.filter(pc.field("name") == merge["name"])["version"]
    return (pc.max(versions).as_py() or 0) + 1
