"""Reads a task's byte ranges and takes the adapters apart into MSUs."""

from __future__ import annotations

import hashlib
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lego_ray.errors import AdapterRefused, LegoRayError
from lego_ray.execution.task import GroupTask, SourceSlice
from lego_ray.formats.decode import check_finite, factor_matrices, scaling_from
from lego_ray.formats.record import TensorSpan
from lego_ray.numerics.msu import lengths, msu_rows
from lego_ray.numerics.pool import Pool, PoolBuilder
from lego_ray.planning.cutting import READ_AHEAD
from lego_ray.storage.base import ByteRange, Store
from lego_ray.storage.open import open_store

# Rows of one adapter at a site and d_in, to the rows that are pooled.
Prepare = Callable[[Tensor, int], Tensor]


@dataclass(slots=True)
class Extraction:
    """A task's MSUs by site, and what reading them showed.

    Attributes:
        pools: The pool of each site; empty if an adapter was quarantined.
        quarantined: Adapters whose weights turned out bad: not finite, or without a scaling.
        scalings: Scaling of each adapter at each site, if it was left out of the pools.
        tensor_hashes: Name and hex sha256 of each tensor, by adapter.
        full_weights: Tensors to pass through, raw, by name.
        bytes_read: Bytes fetched.
        requests: Requests made.
        seconds: Wall time.
    """

    pools: dict[str, Pool] = field(default_factory=dict)
    quarantined: dict[int, LegoRayError] = field(default_factory=dict)
    scalings: dict[int, dict[str, float]] = field(default_factory=dict)
    tensor_hashes: dict[int, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    full_weights: dict[str, bytes] = field(default_factory=dict)
    bytes_read: int = 0
    requests: int = 0
    seconds: float = 0.0


def extract(
    task: GroupTask, prepare: Prepare = lambda rows, d_in: rows, *, as_stored: bool = False
) -> Extraction:
    """Reads a task's sources, one coalesced read an adapter, and pools their MSUs.

    An adapter that turns out bad, such as not finite, is set aside; the others are read all the same, so
    that one pass finds every such adapter of the group.

    Args:
        task: What to read; its sources may be a part of the group's.
        prepare: What a method does to an adapter's MSUs before they are pooled.
        as_stored: Leave scalings and weights out of the MSUs, which they would round to float32.
    """
    started = time.perf_counter()
    found = Extraction()
    builders = builders_of(task)
    for source, store, buffers in read_ahead(task.sources):
        spans = list(source.spans())
        by_name = {span.name: data for span, data in zip(spans, buffers, strict=True)}
        found.bytes_read += store.bytes_read
        found.requests += store.requests
        found.tensor_hashes[source.adapter] = tuple(
            (span.name, tensor_hash(span, by_name[span.name])) for span in spans
        )
        found.full_weights.update(
            (span.name, bytes(by_name[span.name])) for span in source.full_weights
        )
        try:
            scalings: dict[str, float] | None = {} if as_stored else None
            add_rows(builders, source, by_name, prepare, scalings)
            found.scalings[source.adapter] = scalings or {}
        except AdapterRefused as error:
            found.quarantined[source.adapter] = error
    if not found.quarantined:
        found.pools = {site: builder.build() for site, builder in builders.items()}
    found.seconds = time.perf_counter() - started
    return found


def builders_of(task: GroupTask) -> dict[str, PoolBuilder]:
    """A pool to fill for each of a task's sites."""
    rows = Counter[str]()
    for source in task.sources:
        rows.update({factors.site: factors.rank for factors in source.factors})
    return {
        site.site: PoolBuilder(rows[site.site], site.d_in, site.d_out) for site in task.group.sites
    }


def content_hash(tensor_hashes: Sequence[tuple[str, str]]) -> str:
    """Hex sha256 over an adapter's tensors, whatever order they were read in."""
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(tensor_hashes))
    return hashlib.sha256(lines.encode()).hexdigest()


def add_rows(
    builders: Mapping[str, PoolBuilder],
    source: SourceSlice,
    buffers: Mapping[str, memoryview],
    prepare: Prepare,
    scalings: dict[str, float] | None = None,
) -> None:
    """Adds an adapter's MSUs at every site, or at none if one of them is bad.

    Args:
        builders: The pools.
        source: The adapter.
        buffers: Its tensors' bytes.
        prepare: What is done to its MSUs first.
        scalings: Takes its scaling at each site, which is then left out of the MSUs, as its weight is;
            None to fold both in.
    """
    mine = []
    for factors in source.factors:
        a, b = factor_matrices(factors, buffers[factors.a.name], buffers[factors.b.name])
        scaling = factors.scaling
        if factors.alpha is not None:
            scaling = scaling_from(factors, buffers[factors.alpha.name], source.uri)
        if scalings is not None:
            scalings[factors.site] = scaling
        rows = msu_rows(a, b, scaling * source.weight if scalings is None else 1.0)
        long = lengths(rows)
        if not bool(torch.isfinite(long).all()):  # seen without another pass over the rows
            check_finite(a, source.uri, factors.a.name)
            check_finite(b, source.uri, factors.b.name)
            check_finite(rows, source.uri, f"{factors.site}, times its scaling and weight,")
        pooled = prepare(rows, factors.d_in)
        mine.append((factors.site, pooled, long if pooled is rows else lengths(pooled)))
    for site, pooled, long in mine:
        builders[site].add(source.adapter, pooled, long)


def tensor_hash(span: TensorSpan, data: memoryview) -> str:
    """Hex sha256 over a tensor's type, shape and bytes."""
    shape = ",".join(map(str, span.shape))
    digest = hashlib.sha256(f"{span.dtype} {shape}\n".encode())
    digest.update(data)
    return digest.hexdigest()


def _read(source: SourceSlice) -> tuple[SourceSlice, Store, Sequence[memoryview]]:
    store = open_store(source.folder)
    ranges = [ByteRange(span.start, span.end) for span in source.spans()]
    return source, store, store.read_ranges(source.weights_key, ranges)


def read_ahead(
    sources: Sequence[SourceSlice],
) -> Iterator[tuple[SourceSlice, Store, Sequence[memoryview]]]:
    """Reads sources in order, a few ahead of the one being decoded."""
    with ThreadPoolExecutor(max_workers=READ_AHEAD) as threads:
        waiting: deque[Future[tuple[SourceSlice, Store, Sequence[memoryview]]]] = deque()
        for source in sources:
            if len(waiting) == READ_AHEAD:
                yield waiting.popleft().result()
            waiting.append(threads.submit(_read, source))
        while waiting:
            yield waiting.popleft().result()
