"""Fetches coalesced ranges of one object, several requests at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from lego_ray.storage.base import ByteRange
from lego_ray.storage.coalesce import check_ranges, coalesce, slice_spans, split

REMOTE_MAX_GAP = 1 << 20
"""Bytes. At the 50 to 100 MB/s of one connection, 1 MiB costs about the 10 to 20 ms of a request."""

REMOTE_MAX_REQUEST = 32 << 20
"""Bytes. Large enough that a request's latency is under a tenth of its time, small enough that a
span of a few hundred MB keeps every connection busy and that a retry repeats little."""

REMOTE_THREADS = 8
"""Requests of one call in flight. One connection seldom fills a network card; eight do."""


def fetch_ranges(
    where: str,
    ranges: Sequence[ByteRange],
    fetch: Callable[[ByteRange, memoryview], None],
    *,
    max_gap: int,
    max_request: int,
    threads: int,
) -> list[memoryview]:
    """Fetches ranges of one object with few requests, each straight into its place.

    Args:
        where: The object's URI, for errors.
        ranges: Bytes wanted.
        fetch: Fills a buffer with one request's bytes, or raises. Called from several threads.
        max_gap: Largest number of unwanted bytes fetched to save a request.
        max_request: Largest request, in bytes.
        threads: Most requests in flight.

    Returns:
        One buffer a range, in the order asked. They are the caller's own and can be written to;
        ranges that overlap share memory, and ranges of one span keep the whole span alive.

    Raises:
        StorageError: If a range runs backwards, or whatever `fetch` raised; no request is
            begun after that.
    """
    check_ranges(where, ranges)
    spans = coalesce(ranges, max_gap)
    buffers = [memoryview(bytearray(span.size)) for span in spans]
    requests = [
        (part, buffer[part.start - span.start : part.end - span.start])
        for span, buffer in zip(spans, buffers, strict=True)
        for part in split(span, max_request)
    ]
    if len(requests) > 1 and threads > 1:
        failed = threading.Event()

        def fetch_unless_failed(request: tuple[ByteRange, memoryview]) -> None:
            if failed.is_set():
                return
            try:
                fetch(*request)
            except BaseException:
                failed.set()
                raise

        with ThreadPoolExecutor(min(threads, len(requests)), "lego-ray-fetch") as pool:
            for _ in pool.map(fetch_unless_failed, requests):
                pass
    else:
        for part, into in requests:
            fetch(part, into)
    return slice_spans(ranges, spans, buffers)
