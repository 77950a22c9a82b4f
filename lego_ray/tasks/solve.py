"""From byte ranges to what a pass gives at each site: plain functions that every runner calls."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from lego_ray.errors import LegoRayError, SitesFailed
from lego_ray.faults import of_the_machine
from lego_ray.lazy import torch
from lego_ray.numerics.shards.shard import Shard
from lego_ray.numerics.shards.spread import LocalShards, Shards
from lego_ray.planning.task_plans import SitePlan
from lego_ray.sources.tensor_hashes import TensorHashes
from lego_ray.tasks.cut import shard_tasks
from lego_ray.tasks.device import device_of
from lego_ray.tasks.read import Extraction, extract
from lego_ray.tasks.values import SolveTask, TaskResult

# Name and hex sha256 of each tensor, by the number of its adapter.
Hashes = Mapping[int, tuple[tuple[str, str], ...]]


def solve_task(task: SolveTask, gpus: float = 0.0) -> TaskResult:
    """Extracts a task's sites, and does at each what the pass says.

    All on one thread, a spread site's shards one after another.

    Args:
        task: What to do.
        gpus: Share of a GPU to do the arithmetic on; 0 for the CPU.

    Raises:
        SitesFailed: If a site cannot be solved; names it.
        StorageError: If a source cannot be read.
    """
    device = device_of(gpus)
    with one_thread():
        if not task.plan.shards:
            return solve_extracted(task, extract_task(task), device)
        loaded = [load_shard(part, device) for part in shard_tasks(task)]
        shards = [shard for shard, _ in loaded if shard is not None]
        return solve_spread(task, LocalShards(shards), [report for _, report in loaded])


def extract_task(task: SolveTask) -> Extraction:
    """The first half of `solve_task`, which may run ahead of the second half of another task.

    The caller sees to it that torch has one thread.
    """
    return extract(task, task.work.work.prepare)


def solve_extracted(task: SolveTask, extraction: Extraction, device: str = "cpu") -> TaskResult:
    """The second half of `solve_task`, for a task without shards. Uses the extraction up."""
    started = time.perf_counter()
    result = _report(task, extraction, started)
    if not extraction.quarantined:
        with one_thread():
            for site in task.plan.sites:
                pool = extraction.pools.pop(site.site).to(device)
                with named(site):  # added at once: of similarities, a part a site would be too many
                    result = task.work.with_found(result, task.work.at(site, pool))
    return replace(result, seconds=extraction.seconds + time.perf_counter() - started)


def load_shard(task: SolveTask, device: str = "cpu") -> tuple[Shard | None, TaskResult]:
    """Extracts a shard's part of a pool.

    Args:
        task: One of `shard_tasks`.
        device: Where to hold it.

    Returns:
        The shard, or None if an adapter was quarantined; and a result without sites, which says
        what was read.
    """
    with one_thread():
        extraction = extract_task(task)
        started = time.perf_counter()
        shard = None
        if not extraction.quarantined:
            [site] = task.plan.sites
            pool = extraction.pools.pop(site.site).to(device)
            shard = task.work.work.shard(pool)
    return shard, _report(task, extraction, started)


def solve_spread(task: SolveTask, shards: Shards, reports: Sequence[TaskResult]) -> TaskResult:
    """Does at a site in shards, wherever they are, what the pass says.

    Args:
        task: The site's task.
        shards: Its shards; not asked if an adapter was quarantined.
        reports: What loading each of them showed.

    Raises:
        SitesFailed: If it cannot be solved; names it.
    """
    started = time.perf_counter()
    joined = _join(reports)
    if joined.quarantined:
        return joined
    [site] = task.plan.sites
    with one_thread(), named(site):
        joined = task.work.with_found(joined, task.work.at_spread(site, shards))
    return replace(joined, seconds=joined.seconds + time.perf_counter() - started)


@contextmanager
def one_thread() -> Iterator[None]:
    """Runs torch on one thread: another number may add in another order and give other bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def named(plan: SitePlan) -> Iterator[None]:
    """Names the site in an error that is none of ours."""
    try:
        yield
    except LegoRayError:
        raise
    except (RuntimeError, ValueError, MemoryError) as error:
        if cause := of_the_machine(error):
            raise type(cause)(plan.site, cause.problem) from error
        raise SitesFailed(
            plan.site,
            f"could not be solved: {type(error).__name__}: {error}",
            "This is a fault of lego-ray; please report it with the plan's digest.",
        ) from error


def _report(task: SolveTask, extraction: Extraction, started: float) -> TaskResult:
    return TaskResult(
        index=task.index,
        sites=(),
        quarantined=extraction.quarantined,
        tensor_hashes=extraction.tensor_hashes,
        full_weights={
            **extraction.full_weights,
            **{key: each.packed() for key, each in extraction.sums.items()},
        },
        bytes_read=extraction.bytes_read,
        requests=extraction.requests,
        seconds=extraction.seconds + time.perf_counter() - started,
        losses=tuple(extraction.losses),
    )


def _join(reports: Iterable[TaskResult]) -> TaskResult:
    """What loading the shards of one site showed, together."""
    first, *others = reports
    for report in others:
        first = replace(
            first,
            quarantined={**first.quarantined, **report.quarantined},
            tensor_hashes=_both(first.tensor_hashes, report.tensor_hashes),
            full_weights={**first.full_weights, **report.full_weights},
            bytes_read=first.bytes_read + report.bytes_read,
            requests=first.requests + report.requests,
            seconds=first.seconds + report.seconds,
            losses=(*first.losses, *report.losses),
        )
    return first


def _both(one: Hashes, two: Hashes) -> Hashes:
    """The hashes of two reports; an adapter may have tensors in both."""
    return TensorHashes(
        (number, (*one.get(number, ()), *two.get(number, ()))) for number in sorted({*one, *two})
    )
