"""A table's state as a dataset, whose readers verify each page and pass no row over."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyarrow import fs

from lego_ray.catalog.data_files import check_footer
from lego_ray.catalog.location import directory_of

if TYPE_CHECKING:
    from deltalake import DeltaTable

# Small reads that wait for a store.
_THREADS = 16


def table_dataset(
    handle: DeltaTable,
    files: fs.FileSystem | None,
    schema: pa.Schema | None = None,
    where: pc.Expression | None = None,
) -> ds.FileSystemDataset:
    """Opens a table's state as a dataset whose readers verify the pages' checksums.

    The files' footers are verified here. What earlier releases or others wrote has no such checksums and
    is read as it is.

    Args:
        handle: The table, in the state to read.
        files: Its directory's file system; None for the Delta library's own.
        schema: The columns to read; those of the table if not given.
        where: Leaves out files none of whose rows can fit it; the others have all their rows.

    Raises:
        CatalogError: If a footer is damaged.
        OSError: If a file is not there, or the store failed.
    """
    found = handle.to_pyarrow_dataset(filesystem=files, schema=schema)
    checked = ds.ParquetFileFormat(
        default_fragment_scan_options=ds.ParquetFragmentScanOptions(
            pre_buffer=True, page_checksum_verification=True
        )
    )
    bounds = _bounds(handle)
    parts = [
        checked.make_fragment(
            part.path,
            filesystem=found.filesystem,
            partition_expression=bounds.get(part.path),
        )
        for part in found.get_fragments()
    ]
    whole = ds.FileSystemDataset(parts, found.schema, checked, found.filesystem)
    if where is not None:
        parts = list(whole.get_fragments(filter=where))
        whole = ds.FileSystemDataset(parts, found.schema, checked, found.filesystem)
    if parts:
        uri = directory_of(handle)

        def check(part: ds.Fragment) -> None:
            check_footer(found.filesystem, part.path, uri)

        with ThreadPoolExecutor(max_workers=min(len(parts), _THREADS)) as threads:
            for _ in threads.map(check, parts):
                pass
    return whole


def _bounds(handle: DeltaTable) -> dict[str, pc.Expression]:
    """What is known of every row of a file, by which a reader need not open it.

    The Delta library's own say of a column without a smallest value that each value is at least null,
    and a reader then passes over rows that have one: all those of a file with an infinite distance.
    """
    actions = pa.table(handle.get_add_actions())
    if not {"min", "max", "null_count"} <= set(actions.column_names):
        return {}
    found: dict[str, pc.Expression] = {}
    for row in actions.select(["path", "min", "max", "null_count"]).to_pylist():
        low, high, nulls = (row[key] or {} for key in ("min", "max", "null_count"))
        for name, least in low.items():
            most = high.get(name)
            # Times are rounded down in the log, and a number that is none is in no statistics.
            if nulls.get(name) == 0 and _is_exact(least) and _is_exact(most):
                bound = (pc.field(name) >= least) & (pc.field(name) <= most)
                found[row["path"]] = found[row["path"]] & bound if row["path"] in found else bound
    return found


def _is_exact(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)
