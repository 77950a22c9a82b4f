"""A table's state as a dataset, whose readers verify each page and pass no row over."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyarrow import fs

from lego_ray.catalog.data_files import check_footer, hash_in_name
from lego_ray.catalog.location import directory_of
from lego_ray.catalog.rows import as_read

if TYPE_CHECKING:
    from deltalake import DeltaTable

# Small reads that wait for a store.
_THREADS = 16


def stored_schema(handle: DeltaTable) -> pa.Schema:
    """The columns of a table in the types that its log has them in, which its files must have."""
    return pa.schema(handle.schema().to_arrow())


def table_dataset(
    handle: DeltaTable,
    files: fs.FileSystem | None,
    schema: pa.Schema | None = None,
    where: pc.Expression | None = None,
) -> ds.FileSystemDataset:
    """Opens a table's state as a dataset whose readers verify the pages' checksums.

    The files' footers are verified here. What earlier releases or others wrote has no such checksums.
    Another program may have written a column in another type, which readers see in the type of `schema`.

    Args:
        handle: The table, in the state to read.
        files: Its directory's file system; None for the Delta library's own.
        schema: The columns to read; those that `rows.as_read` makes of the table's if not given.
        where: Leaves out files none of whose rows can fit it; the others have all their rows.

    Raises:
        CatalogError: If a footer is damaged, or a column is missing or of a type that cannot be read.
        OSError: If a file is not there, or the store failed.
    """
    uri = directory_of(handle)
    if schema is None:
        schema = as_read(uri.rpartition("/")[2], stored_schema(handle))
    found = handle.to_pyarrow_dataset(filesystem=files, schema=schema)
    checked = _format()
    bounds = _bounds(handle)
    parts: Sequence[ds.Fragment] = [
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
    if parts:

        def checked_part(part: ds.Fragment) -> ds.Fragment:
            check_footer(found.filesystem, part.path, uri)
            return part if hash_in_name(part.path) else _with_texts(part)

        with ThreadPoolExecutor(max_workers=min(len(parts), _THREADS)) as threads:
            parts = list(threads.map(checked_part, parts))
    return ds.FileSystemDataset(parts, found.schema, checked, found.filesystem)


def _format(dictionary_columns: Sequence[str] = ()) -> ds.ParquetFileFormat:
    """Parquet whose pages are verified; some columns are read with each of their texts once."""
    return ds.ParquetFileFormat(
        read_options=ds.ParquetReadOptions(dictionary_columns=set(dictionary_columns)),
        default_fragment_scan_options=ds.ParquetFragmentScanOptions(
            pre_buffer=True, page_checksum_verification=True
        ),
    )


def _with_texts(part: ds.ParquetFileFragment) -> ds.ParquetFileFragment:
    """A file whose texts can be compared.

    The Delta library's own updates write columns of Arrow's type `string_view`, which Arrow cannot
    compare. Read as a dictionary, such a column has plain strings.
    """
    views = [field.name for field in part.physical_schema if pa.types.is_string_view(field.type)]
    if not views:
        return part
    return _format(views).make_fragment(
        part.path, filesystem=part.filesystem, partition_expression=part.partition_expression
    )


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
