"""Recording a merge: its details first, its row in `merges` last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from lego_ray.catalog.changes import Change, Files, Renumbering, Rows, Transactions
from lego_ray.catalog.commit import commit
from lego_ray.catalog.data_files import DataFile, write_data_file
from lego_ray.catalog.dataset import table_dataset
from lego_ray.catalog.msu_files import MsuFiles
from lego_ray.catalog.msus import MsuRows
from lego_ray.catalog.rewriting import check_plain
from lego_ray.catalog.rows import Row, conform
from lego_ray.catalog.tables import Catalog
from lego_ray.catalog.tenure import Tenure
from lego_ray.errors import CatalogError

if TYPE_CHECKING:
    from deltalake import DeltaTable


def append_merge(
    catalog: Catalog,
    merge: Row,
    sites: pa.Table | Sequence[Row],
    msus: MsuFiles | MsuRows | pa.Table | Sequence[Row],
    tenure: Tenure | None = None,
) -> bool:
    """Records a merge, once: its row in `merges` is the commit point.

    Readers of the catalog see no detail of a merge before that row. Call it again after a crash at
    any point: what is there is left as it was, and what is missing is added, also if a garbage
    collection took details away meanwhile.

    Args:
        catalog: Where to.
        merge: The row of `merges`. Without a `version` it gets the next one of its name.
        sites: Rows of `merge_sites`.
        msus: Rows of `msus`; none if the method keeps none. Of `MsuRows` a part at a time is in memory
            as text, and there may be any number; those of `MsuFiles` are written already.
        tenure: The turn that it is recorded in, if there are turns; its number is part of the commit.

    Returns:
        Whether the merge was recorded by this call; False if it was there already.

    Raises:
        CatalogError: If a row does not fit the columns or belongs to another merge; nothing was
            written.
        RunFailed: If a later turn has begun; the merge is not recorded.
        StorageError: If the store could not be reached or refused access.
    """
    merge_id = merge.get("merge_id")
    # A version stands in for the one to be given, so that all rows are checked before any is
    # written.
    row = conform("merges", [{**merge, "version": merge.get("version") or 0}])
    details = {
        "msus": msus if isinstance(msus, MsuFiles | MsuRows) else conform("msus", msus),
        "merge_sites": conform("merge_sites", sites),
    }
    for table, rows in details.items():
        if not _are_of(rows, str(merge_id)):
            raise CatalogError(f"{table}.merge_id", f"some rows are not of merge {merge_id}")
    if is_recorded(catalog, str(merge_id)):
        return False
    for table, rows in details.items():
        if rows.num_rows:
            _append_details(catalog, table, str(merge_id), rows)

    recorded = False

    def change(handle: DeltaTable, again: bool) -> Change | None:
        nonlocal recorded
        if tenure is not None:
            tenure.check(catalog.table_uri("merges"), handle)
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
        return Rows(data, ((str(merge_id), 1), (f"name:{name}", version), *_carried(tenure)))

    commit(lambda: catalog.open_or_create("merges"), change, catalog.table_uri("merges"))
    return recorded


def make_current(catalog: Catalog, merge_id: str, tenure: Tenure | None = None) -> int:
    """Gives a recorded merge the highest version of its name, so that it is the current one again.

    Args:
        catalog: Where it is recorded.
        merge_id: The merge.
        tenure: As for `append_merge`.

    Returns:
        The version it has now.

    Raises:
        CatalogError: If it is not recorded.
        RunFailed: If a later turn has begun; no version is changed.
        StorageError: If the store could not be reached or refused access.
    """
    version = 0

    def change(handle: DeltaTable, again: bool) -> Change | None:
        nonlocal version
        del again  # a try whose answer got lost has made it the highest
        if tenure is not None:
            tenure.check(catalog.table_uri("merges"), handle)
        stored = table_dataset(handle, catalog.filesystem("merges"))
        table = stored.to_table(columns=["merge_id", "name", "version"])
        rows = {row["merge_id"]: row for row in table.to_pylist()}
        if merge_id not in rows:
            raise CatalogError(catalog.table_uri("merges"), f"merge {merge_id} is not recorded")
        name, version = rows[merge_id]["name"], rows[merge_id]["version"]
        last = max(row["version"] for row in rows.values() if row["name"] == name)
        if version == last:
            return None
        version = last + 1
        return Renumbering(merge_id, version, ((f"name:{name}", version), *_carried(tenure)))

    commit(lambda: catalog.open_or_create("merges"), change, catalog.table_uri("merges"))
    return version


def _carried(tenure: Tenure | None) -> Transactions:
    return () if tenure is None else tenure.transactions


def is_recorded(catalog: Catalog, merge_id: str) -> bool:
    """Tells whether a merge has its row, from the log alone.

    Args:
        catalog: The catalog.
        merge_id: The plan's digest, in hex.
    """
    if not catalog.exists("merges"):
        return False
    return catalog.open("merges").transaction_version(merge_id) is not None


def details_are_there(version: int) -> bool:
    """Reads the version under which a table of details has a merge's id among its transactions.

    It counts up by one when they are written, by one when they are taken away, and by two when a run
    that found them there means to use them; so those that are there have an odd one, and one that has
    not changed for a day is of a run that has not been at it for a day.
    """
    return version % 2 == 1


def _are_of(rows: MsuFiles | MsuRows | pa.Table, merge_id: str) -> bool:
    """Whether all rows are of a merge."""
    if isinstance(rows, MsuFiles | MsuRows):
        return rows.merge_id == merge_id
    return bool(pc.all(pc.equal(rows["merge_id"], merge_id), min_count=0).as_py())


def _append_details(
    catalog: Catalog, table: str, merge_id: str, rows: MsuFiles | MsuRows | pa.Table
) -> None:
    """Appends a merge's details, or says that they are in use if they are there.

    Files are written once, however often the commit is tried.
    """
    first: int | None = None
    files: list[DataFile] = []
    parts: list[MsuRows | pa.Table] = []
    if not isinstance(rows, MsuFiles):
        parts += rows.parts() if isinstance(rows, MsuRows) else [rows]

    def change(handle: DeltaTable, again: bool) -> Change | None:
        nonlocal first
        del again
        version = handle.transaction_version(merge_id) or 0
        first = version if first is None else first
        if not details_are_there(version):
            check_plain(handle)
            for part in parts[len(files) :]:
                data = part.table() if isinstance(part, MsuRows) else part
                if written := write_data_file(handle, data.schema, data.to_batches()):
                    files.append(written)
            if isinstance(rows, MsuFiles):
                files[:] = rows.files()
            return Files(files, ((merge_id, version + 1),))
        if version > first:  # by this call, in a try whose answer got lost, or by one that raced it
            return None
        return Files((), ((merge_id, version + 2),))

    commit(lambda: catalog.open_or_create(table), change, catalog.table_uri(table))


def _next_version(handle: DeltaTable, catalog: Catalog, merge: Row) -> int:
    stored = table_dataset(handle, catalog.filesystem("merges"))
    table = stored.to_table(columns=["name", "version"])
    versions = table.filter(pc.field("name") == merge["name"])["version"]
    return (pc.max(versions).as_py() or 0) + 1
