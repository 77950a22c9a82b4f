"""Which files of a catalog's tables are not as they were written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from lego_ray.catalog.data_files import hash_in_name
from lego_ray.catalog.failures import explain, read_through
from lego_ray.catalog.reading import filesystem_of, native_filesystem
from lego_ray.catalog.rewriting import active_files
from lego_ray.catalog.schema import TABLES
from lego_ray.catalog.tables import Catalog
from lego_ray.errors import CatalogError, CatalogNotFound, CatalogVersionMismatch

if TYPE_CHECKING:
    from deltalake import DeltaTable

# Reads that wait for a store.
_THREADS = 8
_CHUNK_BYTES = 1 << 20
_LOG = "_delta_log"


class Damage(NamedTuple):
    """One file of a table that is not as it was written.

    Attributes:
        table: Name of the table.
        file: Its path below the table's directory; `_delta_log` if the log is damaged and none of its
            files alone is.
        problem: What is wrong with it, as a sentence without its full stop.
    """

    table: str
    file: str
    problem: str


def damaged_files(catalog: Catalog) -> list[Damage]:
    """Reads every file of every table's present state whole, and says which are damaged.

    A file that lego-ray wrote is held against the sha256 in its name. One by an earlier release or
    another program has none: it is held against the size and the number of rows that the log has of it,
    and its pages against their checksums where they have any, so a changed value in it may pass. Of a
    log that cannot be read, the files that are not log are named.

    Args:
        catalog: Which catalog; one with no tables has no damage.

    Returns:
        What is damaged, by table and file.

    Raises:
        StorageError: If the store could not be reached or refused access.
    """
    found: list[Damage] = []
    for table in TABLES:
        try:
            handle = catalog.open(table)
        except (CatalogNotFound, CatalogVersionMismatch):
            continue
        except CatalogError as error:
            found += _damaged_log(catalog, table, error)
            continue
        damaged = list(_damaged_data(catalog.table_uri(table), table, handle))
        if damaged:  # what another process replaced meanwhile may be gone
            there = active_files(catalog.open(table))
            found += [each for each in damaged if each.file in there]
    return sorted(found)


def _damaged_data(uri: str, table: str, handle: DeltaTable) -> Iterator[Damage]:
    files = filesystem_of(handle)
    actions = pa.table(handle.get_add_actions()).select(["path", "size_bytes", "num_records"])

    def check(row: dict[str, Any]) -> str:
        try:
            return read_through(
                uri, lambda: _problem(files, row["path"], row["size_bytes"], row["num_records"])
            )
        except CatalogError as error:
            return f"it cannot be read: {error.problem}"

    rows = actions.to_pylist()
    with ThreadPoolExecutor(max_workers=_THREADS) as threads:
        for row, problem in zip(rows, threads.map(check, rows), strict=True):
            if problem:
                yield Damage(table, row["path"], problem)


def _problem(files: fs.FileSystem, name: str, size: int, rows: int | None) -> str:
    """What is wrong with one data file, or nothing."""
    if files.get_file_info(name).type == fs.FileType.NotFound:
        return "it is missing"
    expected = hash_in_name(name)
    if expected is not None:
        found = _sha256(files, name)
        return "" if found == expected else f"its sha256 is {found}, its name says {expected}"
    actual = files.get_file_info(name).size
    if actual != size:
        return f"it has {actual} bytes, the log says {size}"
    with files.open_input_file(name) as opened:
        stored = pq.ParquetFile(opened, page_checksum_verification=True)
        n_rows = sum(batch.num_rows for batch in stored.iter_batches(use_threads=False))
    if rows is not None and n_rows != rows:
        return f"it has {n_rows} rows, the log says {rows}"
    return ""


def _sha256(files: fs.FileSystem, name: str) -> str:
    digest = hashlib.sha256()
    with files.open_input_stream(name) as opened:
        while chunk := opened.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _damaged_log(catalog: Catalog, table: str, error: CatalogError) -> list[Damage]:
    """The files of a log that cannot be read; the log as a whole if each by itself can."""
    uri = catalog.table_uri(table)
    files = native_filesystem(uri, catalog.options())
    found: list[Damage] = []
    if files is not None:
        with explain(uri):
            for info in files.get_file_info(fs.FileSelector(_LOG)):
                problem = _log_problem(files, info.path)
                if problem:
                    found.append(Damage(table, info.path, problem))
    return found or [Damage(table, _LOG, error.problem)]


def _log_problem(files: fs.FileSystem, name: str) -> str:
    with files.open_input_file(name) as opened:
        if name.endswith(".json"):
            try:
                for line in opened.read().splitlines():
                    json.loads(line)
            except (ValueError, RecursionError) as error:
                return f"it is not JSON: {error}"
        elif name.endswith(".parquet"):
            try:
                pq.ParquetFile(opened).read()
            except (OSError, pa.ArrowException) as error:
                return f"it cannot be read: {error}"
    return ""
