"""Turns byte ranges into few requests, and the answers back into ranges. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from lego_ray.errors import StorageError
from lego_ray.storage.base import ByteRange


def check_ranges(where: str, ranges: Sequence[ByteRange]) -> None:
    """Refuses ranges that run backwards or start before the object.

    Args:
        where: The object's URI, for the error.
        ranges: Bytes wanted.

    Raises:
        StorageError: If any is not `0 <= start <= end`.
    """
    for wanted in ranges:
        if not 0 <= wanted.start <= wanted.end:
            raise StorageError(
                where,
                f"bytes {wanted.start} to {wanted.end} are not a valid range",
            )


def coalesce(ranges: Sequence[ByteRange], max_gap: int) -> list[ByteRange]:
    """Covers all ranges with the fewest spans that skip no gap of `max_gap` bytes or less.

    Args:
        ranges: Bytes wanted, in any order, overlapping or not. Empty ones need no span.
        max_gap: Largest number of unwanted bytes worth fetching to save a request.

    Returns:
        Disjoint spans in rising order, more than `max_gap` bytes apart. Every range that is not
        empty lies within one of them.
    """
    spans: list[ByteRange] = []
    for wanted in sorted((r for r in ranges if r.size > 0), key=lambda r: (r.start, r.end)):
        if spans and wanted.start - spans[-1].end <= max_gap:
            spans[-1] = ByteRange(spans[-1].start, max(spans[-1].end, wanted.end))
        else:
            spans.append(wanted)
    return spans


def split(span: ByteRange, max_request: int) -> list[ByteRange]:
    """Cuts a span into requests of near-equal size, none above `max_request` bytes.

    Near-equal, so that requests made at once also end at about the same time.

    Args:
        span: Bytes to fetch; not empty.
        max_request: Largest request, in bytes; at least 1.

    Returns:
        The requests in rising order; together they are the span.
    """
    count = -(-span.size // max_request)
    cuts = [span.start + span.size * i // count for i in range(count + 1)]
    return [ByteRange(cuts[i], cuts[i + 1]) for i in range(count)]


def slice_spans(
    ranges: Sequence[ByteRange], spans: Sequence[ByteRange], buffers: Sequence[memoryview]
) -> list[memoryview]:
    """Cuts each range out of the span that holds it, without copying.

    Args:
        ranges: As given to `coalesce`.
        spans: As `coalesce` returned them.
        buffers: The bytes of each span.

    Returns:
        One buffer a range, in the order of `ranges`. Ranges that overlap share memory.
    """
    starts = [span.start for span in spans]
    views = []
    for wanted in ranges:
        if wanted.size == 0:
            views.append(memoryview(b""))
            continue
        at = bisect_right(starts, wanted.start) - 1
        offset = wanted.start - starts[at]
        views.append(buffers[at][offset : offset + wanted.size])
    return views
