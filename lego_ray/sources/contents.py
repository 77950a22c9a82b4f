"""The full content of an adapter as one hash: of tensors in memory, or streamed from a store."""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lego_ray.formats.record import AdapterRecord
from lego_ray.formats.site_factors import TensorSpan
from lego_ray.sources.recorded import folder_of
from lego_ray.storage.base import ByteRange, Store

if TYPE_CHECKING:
    from hashlib import _Hash

# Bytes of one read: large enough that its latency counts little on S3.
PIECE = 16 << 20
# Adapters streamed at once, so that they hold 64 MiB together however many are read.
_STREAMS = threading.BoundedSemaphore(4)


@dataclass(frozen=True, slots=True)
class Content:
    """What an adapter holds.

    Attributes:
        whole: Hex sha256 over all tensors that its record lists.
        factors: Hex sha256 over its factors alone, as a merge records it that leaves the rest out.
        bytes_read: Bytes it took to find out.
        requests: Read requests it took.
    """

    whole: str
    factors: str
    bytes_read: int = 0
    requests: int = 0

    def is_what(self, recorded: str) -> bool:
        """Whether a hash that was recorded is of this content."""
        return recorded in (self.whole, self.factors)


def tensor_hash(span: TensorSpan, data: memoryview) -> str:
    """Hex sha256 over a tensor's type, shape and bytes."""
    digest = _started(span)
    digest.update(data)
    return digest.hexdigest()


def content_hash(tensor_hashes: Iterable[tuple[str, str]]) -> str:
    """Hex sha256 over an adapter's tensors, whatever order they were read in.

    Args:
        tensor_hashes: Name and `tensor_hash` of each; one that tasks read several times counts once.
    """
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(set(tensor_hashes)))
    return hashlib.sha256(lines.encode()).hexdigest()


def spans_of(adapter: AdapterRecord) -> Iterator[TensorSpan]:
    """Every tensor of an adapter that a merge may read."""
    for factors in adapter.sites:
        yield from factors.spans()
    yield from adapter.full_weights
    yield from (each.span for each in adapter.differences)


def read_content(adapter: AdapterRecord) -> Content:
    """Reads an adapter once, piece by piece, for the hash of its content.

    Args:
        adapter: Its record, from a scan.

    Raises:
        SourceChanged: If the file is not the one that was scanned.
        StorageError: If it cannot be read.
    """
    store = folder_of(adapter).open()
    hashes = stream_hashes(store, adapter.weights_key, spans_of(adapter), adapter.version or None)
    factors = {span.name for pair in adapter.sites for span in pair.spans()}
    return Content(
        whole=content_hash(hashes.items()),
        factors=content_hash((name, h) for name, h in hashes.items() if name in factors),
        bytes_read=store.bytes_read,
        requests=store.requests,
    )


def stream_hashes(
    store: Store, key: str, spans: Iterable[TensorSpan], version: str | None = None
) -> Mapping[str, str]:
    """The `tensor_hash` of tensors of one file, by name; holds `PIECE` bytes at a time.

    Args:
        store: Where the file is.
        key: The file's.
        spans: Its tensors, in any order; they may overlap, and no byte is read twice.
        version: The version that was scanned, as for `Store.read`.

    Raises:
        SourceChanged: If the file has another version by now.
        StorageError: If it cannot be read.
    """
    waiting = deque(sorted(dict.fromkeys(spans), key=lambda span: (span.start, span.end)))
    hashes: dict[str, str] = {}
    going: list[tuple[TensorSpan, _Hash]] = []
    at = 0
    with _STREAMS:
        while waiting or going:
            if not going:
                at = max(at, waiting[0].start)  # bytes between two tensors are not read
            end = at + PIECE
            while waiting and waiting[0].start < end:
                span = waiting.popleft()
                going.append((span, _started(span)))
            end = min(end, max((span.end for span, _ in going), default=end))
            data = _read(store, key, at, end, version)
            for span, digest in going:
                digest.update(data[max(0, span.start - at) : max(0, span.end - at)])
                if span.end <= end:
                    hashes[span.name] = digest.hexdigest()
            going = [(span, digest) for span, digest in going if span.end > end]
            at = end
    return hashes


def _read(store: Store, key: str, start: int, end: int, version: str | None) -> memoryview:
    if end <= start:
        return memoryview(b"")
    return store.read_ranges(key, [ByteRange(start, end)], version)[0]


def _started(span: TensorSpan) -> _Hash:
    shape = ",".join(map(str, span.shape))
    return hashlib.sha256(f"{span.dtype} {shape}\n".encode())
