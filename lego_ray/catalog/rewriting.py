"""Files of one state of a table: which they are, and what takes their place when rows change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from lego_ray.catalog.data_files import now_millis, write_data_file
from lego_ray.catalog.dataset import stored_schema, table_dataset
from lego_ray.catalog.failures import FEATURE_HINT
from lego_ray.catalog.location import directory_of
from lego_ray.catalog.reading import filesystem_of
from lego_ray.errors import CatalogError

if TYPE_CHECKING:
    from deltalake import DeltaTable
    from deltalake.transaction import AddAction, RemoveAction

# Later versions of the protocol ask things of a writer that no file written here does, such as checks
# of values or deleted rows kept apart.
_WRITER_VERSION = 2
_FEATURES_VERSION = 7
_FEATURES = frozenset({"appendOnly", "invariants", "timestampNtz"})


def active_files(handle: DeltaTable) -> dict[str, int]:
    """The files that a table's state is made of: sizes in bytes by name, in the log's order."""
    found = pa.table(handle.get_add_actions())
    return dict(zip(found["path"].to_pylist(), found["size_bytes"].to_pylist(), strict=True))


def check_plain(handle: DeltaTable) -> None:
    """Passes a table that plain Parquet files can be added to.

    Raises:
        CatalogError: If another program gave it features of Delta Lake that lego-ray does not write.
    """
    found = handle.protocol()
    features = set(found.writer_features or ()) - _FEATURES
    if found.min_writer_version <= _WRITER_VERSION:
        features = set()
    elif found.min_writer_version != _FEATURES_VERSION and not features:
        features = {f"writer version {found.min_writer_version}"}
    if handle.metadata().partition_columns:
        features.add("partitions")
    if features:
        raise CatalogError(
            directory_of(handle),
            f"another program gave the table {', '.join(sorted(features))}, which lego-ray does not "
            "write",
            FEATURE_HINT,
        )


def removals(handle: DeltaTable, names: Iterable[str] | None = None) -> list[RemoveAction]:
    """Makes the log's entries that take files out of a table.

    They say that data changed even where another file has the same rows: the Delta library stops an
    `optimize` of anybody's that such a commit overtakes, and would let it bring the rows in twice
    otherwise.

    Args:
        handle: The table.
        names: Which of its files; all if not given.
    """
    from deltalake.transaction import RemoveAction

    sizes = active_files(handle)
    now = now_millis()
    return [
        RemoveAction(name, True, now, sizes[name], {})
        for name in (sizes if names is None else names)
    ]


def rewrite(
    handle: DeltaTable,
    concerned: pc.Expression,
    change: Callable[[pa.RecordBatch], pa.RecordBatch],
) -> list[AddAction | RemoveAction]:
    """Writes each file with rows that fit a condition again, changed.

    Args:
        handle: The table.
        concerned: The condition.
        change: What is written of a batch of such a file's rows, those that do not fit included.

    Returns:
        The log's entries, to be committed to the very same state.
    """
    check_plain(handle)
    files = filesystem_of(handle)
    stored = table_dataset(handle, files, stored_schema(handle))
    actions: list[AddAction | RemoveAction] = []
    for part in stored.get_fragments(filter=concerned):
        fitting = part.scanner(schema=stored.schema, filter=concerned, use_threads=False)
        if not fitting.count_rows():
            continue
        written = write_data_file(
            handle, stored.schema, map(change, rows_of([part], stored.schema))
        )
        actions += removals(handle, [part.path])
        if written is not None:
            actions.append(written.action(data_change=True))
    return actions


def rows_of(parts: Iterable[ds.Fragment], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Reads files in turn, a few batches at a time: all of one may not fit into memory.

    Args:
        parts: The files.
        schema: The columns; null where a file is older than one.
    """
    for part in parts:
        yield from part.to_batches(schema=schema, batch_readahead=1, use_threads=False)
