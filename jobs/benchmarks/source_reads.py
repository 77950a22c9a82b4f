"""Reads a plan's byte ranges in the order and with the read-ahead of a merge, and does no more."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from lego_ray.storage.base import ByteRange
from lego_ray.storage.open import open_store
from lego_ray.tasks.values import SolveTask, SourceSlice


@dataclass(frozen=True, slots=True)
class Fetched:
    """What one source's read took.

    Attributes:
        n_bytes: Bytes fetched, gaps between the ranges included.
        requests: Requests made.
    """

    n_bytes: int
    requests: int


@dataclass(frozen=True, slots=True)
class Reads:
    """What reading some tasks' sources took.

    Attributes:
        seconds: Wall time.
        tensor_bytes: Bytes asked for.
        fetched_bytes: Bytes fetched.
        requests: Requests made.
    """

    seconds: float
    tensor_bytes: int
    fetched_bytes: int
    requests: int

    @property
    def speed(self) -> float:
        """Bytes asked for, a second."""
        return self.tensor_bytes / self.seconds


def ranges_of(source: SourceSlice) -> list[ByteRange]:
    """The bytes a task wants of one adapter."""
    return [ByteRange(span.start, span.end) for span in source.spans()]


def through_store(source: SourceSlice) -> Fetched:
    """Reads one source as a merge does: by a store of its own."""
    store = open_store(source.uri)
    store.read_ranges(source.weights_key, ranges_of(source))
    return Fetched(store.bytes_read, store.requests)


def timed_reads(
    tasks: Iterable[SolveTask], read: Callable[[SourceSlice], Fetched] = through_store
) -> Reads:
    """Reads the sources of one task after another, a few at once as `tasks.read` does.

    Args:
        tasks: What to read.
        read: Reads one source.
    """
    fetched: list[Fetched] = []
    tensor_bytes = 0
    started = time.perf_counter()
    for task in tasks:
        tensor_bytes += task.plan.read_bytes
        with ThreadPoolExecutor(max_workers=task.plan.ahead) as threads:
            waiting: deque[Future[Fetched]] = deque()
            for source in task.sources:
                if len(waiting) == task.plan.ahead:
                    fetched.append(waiting.popleft().result())
                waiting.append(threads.submit(read, source))
            fetched += [future.result() for future in waiting]
    return Reads(
        seconds=time.perf_counter() - started,
        tensor_bytes=tensor_bytes,
        fetched_bytes=sum(f.n_bytes for f in fetched),
        requests=sum(f.requests for f in fetched),
    )
