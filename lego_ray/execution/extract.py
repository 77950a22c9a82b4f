"""Reads a task's byte ranges and takes the adapters apart into MSUs."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import torch

from lego_ray.errors import LegoRayError, NonFiniteWeights
from lego_ray.execution.task import GroupTask, SourceSlice
from lego_ray.formats.decode import check_finite, factor_matrices
from lego_ray.formats.record import TensorSpan
from lego_ray.numerics.msu import msu_rows
from lego_ray.numerics.pool import AdapterRows
from lego_ray.storage.base import ByteRange, Store
from lego_ray.storage.open import open_store

# Adapters whose reads are under way at once: hides a store's latency, holds this many slices.
READ_AHEAD = 4


@dataclass(slots=True)
class Extraction:
    """A task's MSUs by site, and what reading them showed.

    Attributes:
        rows: For each site, each adapter's rows in plan order.
        quarantined: Adapters with weights that are not finite.
        tensor_hashes: Name and hex sha256 of each tensor, by adapter.
        full_weights: Tensors to pass through, raw, by name.
        bytes_read: Bytes fetched.
        requests: Requests made.
    """

    rows: dict[str, list[AdapterRows]] = field(default_factory=dict)
    quarantined: dict[int, LegoRayError] = field(default_factory=dict)
    tensor_hashes: dict[int, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    full_weights: dict[str, bytes] = field(default_factory=dict)
    bytes_read: int = 0
    requests: int = 0


def extract(task: GroupTask) -> Extraction:
    """Reads a task's sources, one coalesced read an adapter, and scales their MSUs.

    An adapter that turns out not to be finite is set aside; the others are read all the same, so
    that one pass finds every such adapter of the group.
    """
    found = Extraction(rows={site.site: [] for site in task.group.sites})
    for source, store, buffers in _read_ahead(task.sources):
        spans = list(source.spans())
        by_name = {span.name: data for span, data in zip(spans, buffers, strict=True)}
        found.bytes_read += store.bytes_read
        found.requests += store.requests
        found.tensor_hashes[source.adapter] = tuple(
            (span.name, _tensor_hash(span, by_name[span.name])) for span in spans
        )
        found.full_weights.update(
            (span.name, bytes(by_name[span.name])) for span in source.full_weights
        )
        try:
            _add_rows(found.rows, source, by_name)
        except NonFiniteWeights as error:
            found.quarantined[source.adapter] = error
    return found


def content_hash(tensor_hashes: Sequence[tuple[str, str]]) -> str:
    """Hex sha256 over an adapter's tensors, whatever order they were read in."""
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(tensor_hashes))
    return hashlib.sha256(lines.encode()).hexdigest()


def _add_rows(
    rows: dict[str, list[AdapterRows]], source: SourceSlice, buffers: Mapping[str, memoryview]
) -> None:
    mine = []
    for factors in source.factors:
        a, b = factor_matrices(factors, buffers[factors.a.name], buffers[factors.b.name])
        part = AdapterRows.of(source.adapter, msu_rows(a, b, factors.scaling))
        if not bool(torch.isfinite(part.lengths).all()):  # seen without another pass over the rows
            check_finite(a, source.uri, factors.a.name)
            check_finite(b, source.uri, factors.b.name)
            check_finite(part.rows, source.uri, f"{factors.site}, times its scaling,")
        mine.append((factors.site, part))
    for site, part in mine:
        rows[site].append(part)


def _tensor_hash(span: TensorSpan, data: memoryview) -> str:
    shape = ",".join(map(str, span.shape))
    digest = hashlib.sha256(f"{span.dtype} {shape}\n".encode())
    digest.update(data)
    return digest.hexdigest()


def _read(source: SourceSlice) -> tuple[SourceSlice, Store, Sequence[memoryview]]:
    store = open_store(source.uri)
    ranges = [ByteRange(span.start, span.end) for span in source.spans()]
    return source, store, store.read_ranges(source.weights_key, ranges)


def _read_ahead(
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
