"""One read, many merges: a shared task's bytes are fetched once, and each merge pools them its way."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from lego_ray.errors import AdapterRefused
from lego_ray.execution.device import device_of
from lego_ray.execution.extract import (
    Extraction,
    Prepare,
    add_rows,
    builders_of,
    read_ahead,
    tensor_hash,
)
from lego_ray.execution.solve import one_thread, solve_extracted, solve_group
from lego_ray.execution.task import GroupResult, GroupTask, SharedResult, SharedTask, SourceSlice


@dataclass(frozen=True, slots=True)
class _Read:
    """What was read of one source, by tensor name."""

    buffers: Mapping[str, memoryview]
    hashes: Mapping[str, str]


def run_task(task: GroupTask | SharedTask, gpus: float = 0.0) -> GroupResult | SharedResult:
    """Does any task there is."""
    return solve_shared(task, gpus) if isinstance(task, SharedTask) else solve_group(task, gpus)


def solve_shared(task: SharedTask, gpus: float = 0.0) -> SharedResult:
    """Reads a shared task's sources once and solves, or measures, each of its parts.

    Args:
        task: What to do.
        gpus: Share of a GPU to do the arithmetic on; 0 for the CPU.

    Returns:
        The results its parts would have by themselves.

    Raises:
        SitesFailed: If a site cannot be solved; names it.
        StorageError: If a source cannot be read.
    """
    started = time.perf_counter()
    device = device_of(gpus)
    held: dict[tuple[str, str], _Read] = {}
    bytes_read = requests = 0
    with one_thread():
        for source, store, buffers in read_ahead(task.sources):
            spans = list(source.spans())
            by_name = {span.name: data for span, data in zip(spans, buffers, strict=True)}
            hashes = {span.name: tensor_hash(span, by_name[span.name]) for span in spans}
            held[_key(source)] = _Read(by_name, hashes)
            bytes_read += store.bytes_read
            requests += store.requests
        parts = tuple(
            solve_extracted(part, _pooled(part, held, part.recipe.work().prepare), device)
            for part in task.parts
        )
    seconds = time.perf_counter() - started
    return SharedResult(task.index, parts, bytes_read, requests, seconds)


def _pooled(part: GroupTask, held: Mapping[tuple[str, str], _Read], prepare: Prepare) -> Extraction:
    """What `extract` of the part alone would find, without the reading."""
    found = Extraction()
    builders = builders_of(part)
    for source in part.sources:
        read = held[_key(source)]
        found.tensor_hashes[source.adapter] = tuple(
            (span.name, read.hashes[span.name]) for span in source.spans()
        )
        found.full_weights.update(
            (span.name, bytes(read.buffers[span.name])) for span in source.full_weights
        )
        try:
            add_rows(builders, source, read.buffers, prepare)
        except AdapterRefused as error:
            found.quarantined[source.adapter] = error
    if not found.quarantined:
        found.pools = {site: builder.build() for site, builder in builders.items()}
    return found


def _key(source: SourceSlice) -> tuple[str, str]:
    return source.uri, source.weights_key
