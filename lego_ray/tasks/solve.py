"""From byte ranges to merged factor pairs, or spectra: plain functions that every runner calls."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lego_ray.errors import LegoRayError, SitesFailed
from lego_ray.faults import of_the_machine
from lego_ray.methods.base import SiteSolution
from lego_ray.methods.lego import Lego
from lego_ray.methods.measure import Measure
from lego_ray.methods.scaling import scaled
from lego_ray.methods.updatable import site_fit
from lego_ray.numerics.kmeans.running_sums import SiteFit
from lego_ray.numerics.msu import split_rows
from lego_ray.numerics.pool import Pool
from lego_ray.numerics.shards.shard import Shard
from lego_ray.numerics.shards.spread import LocalShards, Shards, SpreadPool
from lego_ray.numerics.similarity.parts import SimilarityPart, added
from lego_ray.planning.plan import SitePlan
from lego_ray.planning.ranks import Spectrum
from lego_ray.planning.recipe import Recipe
from lego_ray.tasks.device import device_of
from lego_ray.tasks.read import Extraction, extract
from lego_ray.tasks.values import GroupResult, GroupTask, SiteResult, shard_tasks


def solve_group(task: GroupTask, gpus: float = 0.0) -> GroupResult:
    """Extracts and solves a task's sites, or measures what the task asks for.

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
        if not task.group.shards:
            return solve_extracted(task, extract_group(task), device)
        loaded = [load_shard(part, device) for part in shard_tasks(task)]
        shards = [shard for shard, _ in loaded if shard is not None]
        return solve_spread(task, LocalShards(shards), [report for _, report in loaded])


def extract_group(task: GroupTask) -> Extraction:
    """The first half of `solve_group`, which may run ahead of the second half of another task.

    The caller sees to it that torch has one thread.
    """
    return extract(task, task.work().prepare)


def solve_extracted(task: GroupTask, extraction: Extraction, device: str = "cpu") -> GroupResult:
    """The second half of `solve_group`, for a task without shards. Uses the extraction up."""
    started = time.perf_counter()
    sites, spectra = [], []
    similarities: tuple[SimilarityPart, ...] = ()
    if not extraction.quarantined:
        method = task.recipe.merge_method()
        with one_thread():
            for plan in task.group.sites:
                pool = extraction.pools.pop(plan.site).to(device)
                with named(plan):
                    if task.likeness:
                        part = task.likeness.measured(pool, plan.route, plan.seed)
                        similarities = added([*similarities, part])
                        continue
                    if task.recipe.is_open:
                        spectra.append(_spectrum(plan, Measure().measured(pool)))
                        continue
                    solution = method.solve(pool, plan.rank, seeded(plan), plan.route)
                    result = _result(task.recipe, plan, pool, solution)
                sites.append(result)
    report = _report(task, extraction, started)
    return replace(report, sites=tuple(sites), spectra=tuple(spectra), similarities=similarities)


def load_shard(task: GroupTask, device: str = "cpu") -> tuple[Shard | None, GroupResult]:
    """Extracts a shard's part of a pool.

    Args:
        task: One of `shard_tasks`.
        device: Where to hold it.

    Returns:
        The shard, or None if an adapter was quarantined; and a result without sites, which says
        what was read.
    """
    with one_thread():
        extraction = extract_group(task)
        started = time.perf_counter()
        shard = None
        if not extraction.quarantined:
            [site] = task.group.sites
            pool = extraction.pools.pop(site.site).to(device)
            shard = task.work().shard(pool)
    return shard, _report(task, extraction, started)


def solve_spread(task: GroupTask, shards: Shards, reports: Sequence[GroupResult]) -> GroupResult:
    """Solves a site in shards, wherever they are, or measures it while its rank is open.

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
    [plan] = task.group.sites
    with one_thread(), named(plan):
        if task.likeness:
            part = task.likeness.measured_spread(shards, plan.seed)
            joined = replace(joined, similarities=(part,))
        elif task.recipe.is_open:
            spectrum = _spectrum(plan, Measure().measured_spread(SpreadPool(shards)))
            joined = replace(joined, spectra=(spectrum,))
        else:
            pool = SpreadPool(shards)
            solution = task.recipe.merge_method().solve_spread(pool, plan.rank, seeded(plan))
            joined = replace(joined, sites=(_result(task.recipe, plan, pool, solution),))
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


def seeded(plan: SitePlan) -> torch.Generator:
    """The site's own generator."""
    return torch.Generator().manual_seed(plan.seed)


def _result(
    recipe: Recipe, plan: SitePlan, pool: Pool | SpreadPool, solution: SiteSolution
) -> SiteResult:
    """A solution times the merge's scales, with what updates of it will need."""
    method, fit = recipe.merge_method(), None
    if recipe.updatable and isinstance(method, Lego):
        fit = site_fit(method, pool, solution, recipe.output_scale)
    solution = scaled(solution, pool, recipe.output_scale, plan.scale)
    return site_result(plan, pool.d_in, solution, fit)


def site_result(
    plan: SitePlan, d_in: int, solution: SiteSolution, fit: SiteFit | None = None
) -> SiteResult:
    """A solution as it is sent, checkpointed and written."""
    a, b = split_rows(solution.rows, d_in)
    # Readers of the catalog look for an adapter's ranks together.
    order = np.lexsort((solution.ranks.numpy(), solution.adapters.numpy()))

    def ordered(values: Tensor | None, kind: type) -> NDArray[Any] | None:
        return None if values is None else values.numpy()[order].astype(kind)

    return SiteResult(
        plan=plan,
        a=a.numpy(),
        b=b.numpy(),
        adapters=solution.adapters.numpy()[order].astype(np.int32),
        ranks=solution.ranks.numpy()[order].astype(np.int32),
        clusters=ordered(solution.labels, np.int32),
        distances=ordered(solution.distances, np.float64),
        weights=ordered(solution.weights, np.float64),
        inertia=solution.inertia,
        iterations=solution.iterations,
        relative_error=solution.comparison.relative_error(),
        norm_ratio=solution.comparison.norm_ratio,
        fit_sums=fit.sums.numpy() if fit else None,
        fit_quanta=fit.quanta.numpy() if fit else None,
        fit_alone=fit.alone.numpy() if fit and len(fit.alone) else None,
        fit_totals=fit.totals.numpy() if fit else None,
        fit_norms=ordered(fit.members.norms, np.float64) if fit else None,
        fit_squares=ordered(fit.members.squares, np.float64) if fit else None,
    )


def _spectrum(plan: SitePlan, energies: Tensor) -> Spectrum:
    return Spectrum(plan.site, plan.d_in + plan.d_out, energies.numpy())


def _report(task: GroupTask, extraction: Extraction, started: float) -> GroupResult:
    return GroupResult(
        index=task.index,
        sites=(),
        quarantined=extraction.quarantined,
        tensor_hashes=extraction.tensor_hashes,
        full_weights=extraction.full_weights,
        bytes_read=extraction.bytes_read,
        requests=extraction.requests,
        seconds=extraction.seconds + time.perf_counter() - started,
    )


def _join(reports: Iterable[GroupResult]) -> GroupResult:
    """What loading the shards of one site showed, together."""
    first, *others = reports
    for report in others:
        first = replace(
            first,
            quarantined={**first.quarantined, **report.quarantined},
            tensor_hashes={**first.tensor_hashes, **report.tensor_hashes},
            full_weights={**first.full_weights, **report.full_weights},
            bytes_read=first.bytes_read + report.bytes_read,
            requests=first.requests + report.requests,
            seconds=first.seconds + report.seconds,
        )
    return first
