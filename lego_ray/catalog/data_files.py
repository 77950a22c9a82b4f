"""Data files of a table: written with checksums of their pages, and named by their content."""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
import uuid
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from lego_ray.catalog.failures import DAMAGE_HINT
from lego_ray.catalog.reading import put_file
from lego_ray.errors import CatalogError

if TYPE_CHECKING:
    from deltalake import DeltaTable
    from deltalake.transaction import AddAction

# A name ends in the sha256 of the file's bytes and the CRC-32 of its footer. Parquet has checksums of
# pages only; one flipped bit in the footer, which has their places, counts and statistics, gave wrong
# rows or too few in one of six cases.
_NAME = re.compile(r"part-[0-9a-f-]{36}-([0-9a-f]{64})-([0-9a-f]{8})\.zstd\.parquet")
# After the footer come its length and these.
_MAGIC = b"PAR1"
_TAIL = 4 + len(_MAGIC)
# More than the footer of a small file, and one request.
_FIRST_READ = 1 << 16
# Rows of a row group, the least that a reader of one adapter's rows of `msus` reads of a file. With a
# quarter of it, 9 million rows took half as long again to write and to read by site, and no less by
# adapter. A row takes some 250 bytes in memory.
GROUP_ROWS = 1 << 16
# Longer texts are shortened in the log's statistics, which each opening of the table reads.
_LONGEST_TEXT = 64


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file that is written and that no commit names yet.

    Attributes:
        name: Its path below the table's directory.
        size: Its bytes.
        stats: Its statistics as Delta Lake has them in its log: JSON with the number of rows, and each
            plain column's smallest and largest value and number of nulls.
        written_at: When it was written, in milliseconds since 1970. A vacuum takes it for left behind
            `upkeep.durations.SHORTEST` later.
    """

    name: str
    size: int
    stats: str
    written_at: int = 0

    def action(self, *, data_change: bool) -> AddAction:
        """Makes the log's entry that adds it to the table.

        Args:
            data_change: Whether it has rows that the files removed by the same commit do not have.
        """
        from deltalake.transaction import AddAction

        return AddAction(self.name, self.size, {}, now_millis(), data_change, self.stats)


def write_data_file(
    handle: DeltaTable, schema: pa.Schema, batches: Iterable[pa.RecordBatch]
) -> DataFile | None:
    """Writes rows to one new file; none for no rows.

    The file is compressed in memory, and put into the store whole.

    Args:
        handle: The table.
        schema: Its columns.
        batches: The rows, in any number of batches.

    Raises:
        OSError: If the store failed. What it took of the file belongs to no state of the table.
    """
    sink = pa.BufferOutputStream()
    n_rows = 0
    with pq.ParquetWriter(
        sink, schema, compression="zstd", write_page_checksum=True, store_schema=False
    ) as writer:
        for group in _row_groups(batches):
            writer.write_table(group)
            n_rows += group.num_rows
    if not n_rows:
        return None
    content = sink.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    footer = _crc_of_footer(pa.BufferReader(content), content.size)
    name = f"part-{uuid.uuid4()}-{digest}-{footer}.zstd.parquet"
    put_file(handle, name, content)
    found = pq.read_metadata(pa.BufferReader(content))
    return DataFile(name, content.size, _statistics(found), now_millis())


def hash_in_name(name: str) -> str | None:
    """The sha256 that a file's bytes must have, in hex; None of a file that others wrote."""
    match = _NAME.fullmatch(name)
    return match[1] if match else None


def check_footer(files: fs.FileSystem, name: str, uri: str) -> None:
    """Passes a file whose footer is as it was written; one that others wrote as it is.

    Args:
        files: The file system of the table's directory.
        name: The file's path in it.
        uri: The table's, for the error.

    Raises:
        CatalogError: Otherwise.
        OSError: If the file is not there, or the store failed.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return
    with files.open_input_file(name) as opened:
        if _crc_of_footer(opened, opened.size()) != match[2]:
            raise CatalogError(f"{uri}/{name}", "the footer of this file is damaged", DAMAGE_HINT)


def now_millis() -> int:
    """The time as Delta Lake's log has it: milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def _crc_of_footer(opened: pa.NativeFile, size: int) -> str:
    """CRC-32, in hex, of a Parquet file's footer with its length and what follows; of none, nothing."""
    end = opened.read_at(min(size, _FIRST_READ), max(0, size - _FIRST_READ))
    if len(end) < _TAIL or end[-len(_MAGIC) :] != _MAGIC:
        return ""
    length = int.from_bytes(end[-_TAIL : -len(_MAGIC)], "little") + _TAIL
    if length > size:
        return ""
    if length > len(end):
        end = opened.read_at(length, size - length)
    return f"{zlib.crc32(end[-length:]):08x}"


def _row_groups(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        for start in range(0, batch.num_rows, GROUP_ROWS):
            waiting.append(batch.slice(start, GROUP_ROWS))
            if sum(each.num_rows for each in waiting) >= GROUP_ROWS:
                yield pa.Table.from_batches(waiting)
                waiting = []
    if any(each.num_rows for each in waiting):
        yield pa.Table.from_batches(waiting)


def _statistics(found: pq.FileMetaData) -> str:
    """The log's statistics of a file, from those of its row groups."""
    smallest: dict[str, Any] = {}
    largest: dict[str, Any] = {}
    nulls: dict[str, int] = {}
    for index in range(found.num_columns):
        column = [found.row_group(i).column(index) for i in range(found.num_row_groups)]
        name = column[0].path_in_schema
        parts = [part.statistics for part in column]
        # What is inside a list, a map or a struct has no statistics in the log.
        if "." in name or any(part is None or not part.has_null_count for part in parts):
            continue
        nulls[name] = sum(part.null_count for part in parts)
        with_values = [part for part in parts if part.num_values]
        if with_values and all(part.has_min_max for part in with_values):
            low = min(part.min for part in with_values)
            high = max(part.max for part in with_values)
            # JSON has no infinity. Without a bound a reader looks into the file.
            if not isinstance(low, float) or (math.isfinite(low) and math.isfinite(high)):
                smallest[name] = _in_log(low, largest=False)
                largest[name] = _in_log(high, largest=True)
    return json.dumps(
        {
            "numRecords": found.num_rows,
            "minValues": smallest,
            "maxValues": largest,
            "nullCount": nulls,
        },
        allow_nan=False,
    )


def _in_log(value: Any, *, largest: bool) -> Any:
    """A smallest or largest value as Delta Lake writes it; readers allow for the milliseconds."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(value, str) and len(value) > _LONGEST_TEXT:
        # No text with this beginning comes after the last of all characters.
        return value[:_LONGEST_TEXT] + ("\U0010ffff" if largest else "")
    return value
