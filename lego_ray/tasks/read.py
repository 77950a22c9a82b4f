"""Reads a task's byte ranges and takes the adapters apart into MSUs."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from lego_ray.errors import AdapterRefused, LegoRayError, SourceChanged
from lego_ray.formats.decode import check_finite, site_matrices, site_scaling, stored_tensors
from lego_ray.formats.site_factors import Block, SiteFactors
from lego_ray.lazy import Tensor, torch
from lego_ray.numerics.msu import lengths, msu_rows
from lego_ray.numerics.pool import Pool, PoolBuilder
from lego_ray.planning.task_plans import READ_AHEAD
from lego_ray.sources.contents import tensor_hash
from lego_ray.sources.recorded import folder_of
from lego_ray.sources.tensor_hashes import TensorHashes
from lego_ray.storage.base import ByteRange, Store
from lego_ray.tasks.added import Added, add_differences
from lego_ray.tasks.base_weights import BaseWeights
from lego_ray.tasks.values import Loss, SolveTask, SourceKey, SourceSlice

# Rows of one adapter at a site and d_in, to the rows that are pooled.
Prepare = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True, slots=True)
class Read:
    """What was read of one source.

    Attributes:
        buffers: The bytes of each tensor, by its name.
        hashes: Hex sha256 over each one's type, shape and bytes.
        bytes_read: Bytes fetched.
        requests: Requests made.
    """

    buffers: Mapping[str, memoryview]
    hashes: Mapping[str, str]
    bytes_read: int
    requests: int


@dataclass(slots=True)
class Extraction:
    """A task's MSUs by site, and what reading them showed.

    Attributes:
        pools: The pool of each site; empty if an adapter was quarantined.
        quarantined: Adapters whose weights turned out bad: not finite, or without a scaling.
        scalings: Scaling of each adapter at each site, if it was left out of the pools.
        tensor_hashes: Name and hex sha256 of each tensor, by adapter.
        full_weights: Tensors to pass through, raw, by name.
        losses: How near pairs are that were computed with the base model.
        sums: Sums of differences, by common key.
        bytes_read: Bytes fetched.
        requests: Requests made.
        seconds: Wall time.
    """

    pools: dict[str, Pool] = field(default_factory=dict)
    quarantined: dict[int, LegoRayError] = field(default_factory=dict)
    scalings: dict[int, dict[str, float]] = field(default_factory=dict)
    tensor_hashes: TensorHashes = field(default_factory=TensorHashes)
    full_weights: dict[str, bytes] = field(default_factory=dict)
    losses: list[Loss] = field(default_factory=list)
    sums: dict[str, Added] = field(default_factory=dict)
    bytes_read: int = 0
    requests: int = 0
    seconds: float = 0.0


def extract(
    task: SolveTask, prepare: Prepare = lambda rows, d_in: rows, *, as_stored: bool = False
) -> Extraction:
    """Reads a task's sources, one coalesced read an adapter, and pools their MSUs.

    An adapter that turns out bad, such as not finite, is set aside; the others are read all the same, so
    that one pass finds every such adapter of the task.

    Args:
        task: What to read; its sources may be a part of the plan's.
        prepare: What a method does to an adapter's MSUs before they are pooled.
        as_stored: Leave scalings and weights out of the MSUs, which they would round to float32.
    """
    started = time.perf_counter()
    found = Extraction()
    builders, base = _builders(task), BaseWeights()
    for source, read in read_ahead(task.sources, task.plan.ahead):
        found.bytes_read += read.bytes_read
        found.requests += read.requests
        _take(found, builders, source, read, prepare, as_stored, base)
    found.bytes_read += base.bytes_read
    found.requests += base.requests
    _build(found, builders)
    found.seconds = time.perf_counter() - started
    return found


def pool_read(
    task: SolveTask, reads: Mapping[SourceKey, Read], prepare: Prepare, base: BaseWeights
) -> Extraction:
    """What `extract` would find, of sources that were read before; it counts no reading.

    Args:
        task: What to pool.
        reads: What was read of each of its sources, and maybe more, by `SourceSlice.key`.
        prepare: As for `extract`.
        base: Reads the base model's weights, for other tasks too.
    """
    found, builders = Extraction(), _builders(task)
    for source in task.sources:
        _take(found, builders, source, reads[source.key], prepare, False, base)
    _build(found, builders)
    return found


def _take(
    found: Extraction,
    builders: Mapping[str, PoolBuilder],
    source: SourceSlice,
    read: Read,
    prepare: Prepare,
    as_stored: bool,
    base: BaseWeights,
) -> None:
    """Adds what was read of a source to an extraction."""
    found.tensor_hashes.add(
        source.adapter, ((span.name, read.hashes[span.name]) for span in source.spans())
    )
    found.full_weights.update(
        (span.name, bytes(read.buffers[span.name])) for span in source.full_weights
    )
    try:
        scalings: dict[str, float] | None = {} if as_stored else None
        losses = _add_rows(builders, source, read.buffers, prepare, scalings, base)
        found.losses += losses
        found.scalings[source.adapter] = scalings or {}
        add_differences(found.sums, source.differences, read.buffers, source.uri)
    except AdapterRefused as error:
        found.quarantined[source.adapter] = error


def _build(found: Extraction, builders: Mapping[str, PoolBuilder]) -> None:
    if not found.quarantined:
        found.pools = {site: builder.build() for site, builder in builders.items()}


def _builders(task: SolveTask) -> dict[str, PoolBuilder]:
    """A pool to fill for each of a task's sites."""
    rows = Counter[str]()
    for source in task.sources:
        rows.update({factors.site: factors.rank for factors in source.factors})
    return {
        site.site: PoolBuilder(rows[site.site], site.d_in, site.d_out) for site in task.plan.sites
    }


def _add_rows(
    builders: Mapping[str, PoolBuilder],
    source: SourceSlice,
    buffers: Mapping[str, memoryview],
    prepare: Prepare,
    scalings: dict[str, float] | None,
    base: BaseWeights,
) -> list[Loss]:
    """Adds an adapter's MSUs at every site, or up to the first that is bad: no pool is built then.

    Args:
        builders: The pools.
        source: The adapter.
        buffers: Its tensors' bytes.
        prepare: What is done to its MSUs first.
        scalings: Takes its scaling at each site, which is then left out of the MSUs, as its weight is;
            None to fold both in.
        base: Reads the base model's weights.

    Returns:
        How near its pairs are that are computed with the base model.
    """
    losses: list[Loss] = []
    for factors in source.factors:
        builder = builders[factors.site]
        pairs = _Pairs(source, buffers, base, losses)
        room = builder.room(factors.rank)
        rows, scaling = _rows(factors, pairs, room, as_stored=scalings is not None)
        if scalings is not None:
            scalings[factors.site] = scaling
        long = lengths(rows)
        if not bool(torch.isfinite(long).all()):  # seen without another pass over the rows
            _check_finite(factors, source, buffers)
            check_finite(rows, source.uri, f"{factors.site}, times its scaling and weight,")
        pooled = prepare(rows, factors.d_in)
        builder.add(source.adapter, pooled, long if pooled is rows else lengths(pooled))
    return losses


@dataclass(frozen=True, slots=True)
class _Pairs:
    """The plain pairs of one adapter.

    Attributes:
        source: The adapter.
        buffers: Its tensors' bytes.
        base: Reads the base model's weights.
        losses: Takes how near pairs are that are computed with it.
    """

    source: SourceSlice
    buffers: Mapping[str, memoryview]
    base: BaseWeights
    losses: list[Loss]

    def of(self, factors: SiteFactors) -> tuple[Tensor, Tensor, float]:
        """A, B and the scaling of a site's pair."""
        if factors.derived is None:
            a, b = site_matrices(factors, self.buffers)
            return a, b, site_scaling(factors, self.buffers, self.source.uri)
        near = self.base.pair(factors, self.buffers, self.source.uri)
        self.losses.append((self.source.adapter, factors.site, near.lost, near.total))
        return near.a, near.b, 1.0


def _rows(
    factors: SiteFactors, pairs: _Pairs, rows: Tensor, *, as_stored: bool
) -> tuple[Tensor, float]:
    """A pair's MSUs, and the scaling and weight that are left out of them if they are as stored.

    The scaling of a pair of blocks is in its MSUs, as each block has one of its own.

    Args:
        factors: The pair.
        pairs: Where it is.
        rows: Takes the MSUs, shape (r, d), float32.
        as_stored: Whether to leave scaling and weight out.
    """
    if factors.blocks:
        weight = 1.0 if as_stored else pairs.source.weight
        parts = [_scaled(block, pairs, weight) for block in factors.blocks]
        rows.zero_()
        rank = 0
        for block, part in zip(factors.blocks, parts, strict=True):
            mine = rows[rank : rank + len(part)]
            mine[:, : factors.d_in] = part[:, : factors.d_in]
            at = factors.d_in + block.start
            mine[:, at : at + block.factors.d_out] = part[:, factors.d_in :]
            rank += len(part)
        return rows, 1.0
    a, b, scaling = pairs.of(factors)
    return msu_rows(a, b, 1.0 if as_stored else scaling * pairs.source.weight, rows), scaling


def _scaled(block: Block, pairs: _Pairs, weight: float) -> Tensor:
    """A block's MSUs, those of its own module."""
    a, b, scaling = pairs.of(block.factors)
    return msu_rows(a, b, scaling * weight)


def _check_finite(
    factors: SiteFactors, source: SourceSlice, buffers: Mapping[str, memoryview]
) -> None:
    """Names the tensor that is not finite, if one is."""
    for each in factors.parts():
        if each.derived is not None:  # which were looked at when they were computed
            continue
        pair = site_matrices(each, buffers)
        for name, tensor in stored_tensors(each, buffers, pair):
            check_finite(tensor, source.uri, name)


def _fetch(source: SourceSlice) -> tuple[SourceSlice, Store, Sequence[memoryview]]:
    store = folder_of(source).open()
    ranges = [ByteRange(span.start, span.end) for span in source.spans()]
    try:
        return source, store, store.read_ranges(source.weights_key, ranges, source.version or None)
    except SourceChanged as error:
        raise SourceChanged(error.where, error.problem, error.hint, source.uri) from error


def read_ahead(
    sources: Sequence[SourceSlice], ahead: int = READ_AHEAD
) -> Iterator[tuple[SourceSlice, Read]]:
    """Reads sources in order, some ahead of the one being decoded.

    Args:
        sources: What to read.
        ahead: Sources whose reads are under way at once; where one has more to read than its factors,
            which plans count by themselves, it is `READ_AHEAD`.
    """
    if any(source.full_weights or source.differences for source in sources):
        ahead = READ_AHEAD
    with ThreadPoolExecutor(max_workers=ahead) as threads:
        waiting: deque[Future[tuple[SourceSlice, Store, Sequence[memoryview]]]] = deque()
        for source in sources:
            if len(waiting) == ahead:
                yield _hashed(*waiting.popleft().result())
            waiting.append(threads.submit(_fetch, source))
        while waiting:
            yield _hashed(*waiting.popleft().result())


def _hashed(
    source: SourceSlice, store: Store, buffers: Sequence[memoryview]
) -> tuple[SourceSlice, Read]:
    spans = list(source.spans())
    by_name = {span.name: data for span, data in zip(spans, buffers, strict=True)}
    hashes = {span.name: tensor_hash(span, by_name[span.name]) for span in spans}
    return source, Read(by_name, hashes, store.bytes_read, store.requests)
