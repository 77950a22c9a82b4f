"""The header of one weights file: its tensors, what it says beside them, and no weights."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import BinaryIO, cast

from lego_ray.errors import UnsupportedAdapter
from lego_ray.formats.identity import SAMPLE_BYTES, sample_windows
from lego_ray.formats.safetensors_header import LENGTH_BYTES, header_length
from lego_ray.formats.site_factors import TensorSpan
from lego_ray.formats.torch_bin import read_spans
from lego_ray.sources.find import Found
from lego_ray.sources.shared_headers import SharedHeaders
from lego_ray.storage.base import ByteRange, ObjectInfo, Store
from lego_ray.storage.ranged_file import RangedFile

# One request brings the header of most adapters and the first sample with it.
FIRST_READ = 2 * SAMPLE_BYTES
# The header of 100,000 tensors takes 15 MB, what trainers add a few. Parsed, the worst takes some
# twenty times as much, so those above the second number are parsed one at a time.
MAX_HEADER = 32 << 20
LARGE = 1 << 20
_LARGE = threading.Lock()


@dataclass(frozen=True, slots=True)
class WeightsTable:
    """What a weights file's header says, and the bytes from its start that were read on the way."""

    spans: tuple[TensorSpan, ...]
    metadata: Mapping[str, str]
    first: bytes


def read_table(found: Found, weights: ObjectInfo, shared: SharedHeaders) -> WeightsTable:
    """Reads the header of a weights file.

    Args:
        found: What it is of.
        weights: The file, safetensors or a pickle.
        shared: The headers read so far.

    Raises:
        AdapterRefused: If the header is damaged, too large, or names no tensors.
        SourceChanged: If the file is not the one that was listed.
        StorageError: If it cannot be read.
    """
    where = found.uri_of(weights)
    if weights.key.endswith(".bin"):
        file = RangedFile(found.store, weights.key, weights.size, weights.version)
        return WeightsTable(read_spans(cast(BinaryIO, file), where), {}, b"")
    first = read_range(found.store, weights, 0, FIRST_READ)
    length = header_length(first[:LENGTH_BYTES], weights.size, where)
    if length > MAX_HEADER:
        problem = f"its header has {length} bytes, more than an adapter's can need"
        raise UnsupportedAdapter(where, problem, "Save it again without its metadata.")
    end = LENGTH_BYTES + length
    with one_at_a_time(length):
        if end > len(first):
            first += read_range(found.store, weights, len(first), end)
        spans, metadata = shared.parsed(first[LENGTH_BYTES:end], weights.size, where)
    if not spans:
        raise UnsupportedAdapter(where, "it holds no tensors", "Export the adapter again.")
    return WeightsTable(spans, metadata, first)


def one_at_a_time(n_bytes: int) -> AbstractContextManager[object]:
    """For a block that parses so many bytes of JSON: waits for others that parse as many."""
    return _LARGE if n_bytes > LARGE else nullcontext()


def read_samples(found: Found, weights: ObjectInfo, table: WeightsTable) -> tuple[bytes, bytes]:
    """The two windows of tensor bytes that the adapter's id is taken over."""

    def window(start: int, end: int) -> bytes:
        if end <= len(table.first):
            return table.first[start:end]
        return read_range(found.store, weights, start, end)

    head, tail = sample_windows(table.spans)
    return window(*head), window(*tail)


def read_range(store: Store, info: ObjectInfo, start: int, end: int) -> bytes:
    """Reads bytes `start` to `end` of a file, or to its end if that comes first."""
    end = min(end, info.size)
    if end <= start:
        return b""
    return bytes(store.read_ranges(info.key, [ByteRange(start, end)], info.version)[0])
