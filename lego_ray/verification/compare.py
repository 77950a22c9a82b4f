"""Holds a merged adapter against its sources in factor space, site by site, within a memory budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lego_ray.errors import VerificationFailed
from lego_ray.formats.record import AdapterRecord
from lego_ray.lazy import Tensor, torch
from lego_ray.numerics.norms import (
    BLOCK_VALUES,
    UpdateComparison,
    squared_distance,
    squared_norm_of_sum,
    update_block,
)
from lego_ray.numerics.pool import Pool
from lego_ray.numerics.similarity.per_source import (
    SourceComparison,
    products_with_sources,
    squared_norms_of_sources,
)
from lego_ray.planning.plan import Plan
from lego_ray.planning.task_plans import SitePlan
from lego_ray.sources.headers import Counted, untold
from lego_ray.tasks.cut import shard_tasks, tasks_of
from lego_ray.tasks.read import Extraction, extract
from lego_ray.tasks.solve import one_thread
from lego_ray.tasks.values import SolveTask, SourceSlice
from lego_ray.verification.figures import ComparedSite
from lego_ray.verification.plan import Comparison

# Share of what it is relative to, below which a difference of squares has lost too many of its digits.
CLOSE = 1e-6
# Is given a site, some of its sources' MSUs as they are stored, and each source's scaling; every source
# once a site.
Watch = Callable[[SitePlan, Pool, Mapping[int, float]], None]


@dataclass(slots=True)
class Compared:
    """All sites, in the plan's order, and the hashes of what was read."""

    sites: list[ComparedSite] = field(default_factory=list)
    tensor_hashes: dict[int, list[tuple[str, str]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Part:
    """Some sources at a site, every factor as it is stored.

    Attributes:
        pool: Their MSUs.
        scalings: Scaling of each, by its number in the plan.
    """

    pool: Pool
    scalings: Mapping[int, float]

    @classmethod
    def of(cls, site: str, extraction: Extraction) -> _Part:
        """Takes a site out of what was read."""
        found = {t: own[site] for t, own in extraction.scalings.items() if site in own}
        return cls(extraction.pools.pop(site), found)


@dataclass(frozen=True, slots=True)
class _Site:
    """A site to compare, without the rows of its sources.

    Attributes:
        plan: The site.
        merged: The merged adapter there.
        weights: Weight of each source that has it, by the source's number in the plan.
    """

    plan: SitePlan
    merged: Pool
    weights: Mapping[int, float]

    @classmethod
    def of(cls, site: SitePlan, task: SolveTask, merged: AdapterRecord, plan: Plan) -> _Site:
        """A site of a task, the merged adapter read."""
        having = [s.adapter for s in task.sources for f in s.factors if f.site == site.site]
        return cls(site, _merged_rows(site, task, merged), {t: plan.weights[t] for t in having})

    @property
    def scales(self) -> list[float]:
        """Factors on the sum that the merged update is held against: 1, and that of the mean, if any."""
        weights = self.weights.values()
        return [1.0] if min(weights) < 0 else [1.0, 1.0 / math.fsum(weights)]

    def factors(self, part: _Part) -> Tensor:
        """What each MSU as stored counts in the sum, shape (n,), float64."""
        found = torch.zeros(max(self.weights) + 1, dtype=torch.float64)
        for t, scaling in part.scalings.items():
            found[t] = self.weights[t] * scaling
        return found[part.pool.adapters]

    def sources(self, part: _Part) -> dict[int, SourceComparison]:
        """Each source's own update, without its weight, against the merged one."""
        squares = squared_norms_of_sources(part.pool)
        products = products_with_sources(part.pool, self.merged.rows)
        return {
            t: SourceComparison(scaling**2 * squares[t], scaling * products[t])
            for t, scaling in part.scalings.items()
        }

    def compare(
        self, total: float, sources: dict[int, SourceComparison]
    ) -> tuple[UpdateComparison, dict[int, SourceComparison]]:
        """Against the sum, whose squared norm is `total`; and against each source, in order."""
        inner = math.fsum(self.weights[t] * source.inner for t, source in sources.items())
        merged = squared_norm_of_sum(self.merged.rows, self.merged.d_in)
        return UpdateComparison(merged, total, inner), dict(sorted(sources.items()))

    def compared(
        self,
        to_sum: UpdateComparison,
        sources: Mapping[int, SourceComparison],
        errors: Sequence[float],
    ) -> ComparedSite:
        """The site, its squared distances those from the sum times each of `scales`."""
        sum_error, mean_share, mean_error = errors[0], None, None
        if len(errors) > 1:
            [_, mean_share], [_, mean_error] = self.scales, errors
        return ComparedSite(self.plan.site, to_sum, sources, sum_error, mean_share, mean_error)


def compare(
    plan: Plan,
    work: Comparison,
    merged: AdapterRecord,
    watch: Watch | None = None,
    progress: Counted = untold,
) -> Compared:
    """Compares a merged adapter with its sources.

    All figures are sums of inner products of factors in float64. So is the sum's norm or, where that
    takes less or a pool is too large to hold, it is had from a few rows of the sum at a time.

    Args:
        plan: Sources and tasks; see `plan_comparison`.
        work: How sites are compared that do not fit.
        merged: The merged adapter.
        watch: Looks at the sources too, while they are available.
        progress: Called with the number of sites compared, and of those there are.

    Raises:
        VerificationFailed: If a value of the merged adapter or a source is not finite.
    """
    found = Compared()
    with one_thread():
        for task in tasks_of(plan):
            if task.plan.shards:
                found.sites.append(_in_blocks(task, merged, work, plan, found, watch))
            else:
                found.sites += _at_once(task, merged, plan, found, watch)
            progress(len(found.sites), plan.n_sites)
    return found


def _merged_rows(site: SitePlan, task: SolveTask, merged: AdapterRecord) -> Pool:
    """The merged adapter at one site."""
    factors = tuple(f for f in merged.sites if f.site == site.site)
    itself = SourceSlice.of(merged, 0, factors)
    alone = replace(task, sources=(itself,), plan=replace(task.plan, sites=(site,)))
    extraction = extract(alone)  # its scaling is 1, which rounds nothing
    for error in extraction.quarantined.values():
        raise _changed(merged.uri, error.problem)
    return extraction.pools[site.site]


def _at_once(
    task: SolveTask, merged: AdapterRecord, plan: Plan, found: Compared, watch: Watch | None
) -> Iterator[ComparedSite]:
    """Sites whose pools fit together."""
    extraction = _extracted(task, plan, found)
    for each in task.plan.sites:
        site, part = _Site.of(each, task, merged, plan), _Part.of(each.site, extraction)
        if watch:
            watch(each, part.pool, part.scalings)
        rows, d_in, factors = part.pool.rows, part.pool.d_in, site.factors(part)
        total = squared_norm_of_sum(rows, d_in, factors)
        to_sum, sources = site.compare(total, site.sources(part))
        errors = []
        for scale in site.scales:
            squared = to_sum.squared_error(scale)
            if squared < CLOSE * scale * scale * total:
                squared = squared_distance(site.merged.rows, rows, d_in, scale, factors)
            errors.append(squared)
        yield site.compared(to_sum, sources, errors)


def _in_blocks(
    task: SolveTask,
    merged: AdapterRecord,
    work: Comparison,
    plan: Plan,
    found: Compared,
    watch: Watch | None,
) -> ComparedSite:
    """A site whose pool does not fit: its sources in blocks, once for each band of rows of the sum."""
    site = _Site.of(task.plan.sites[0], task, merged, plan)
    d_in, scales = site.plan.d_in, site.scales
    sources: dict[int, SourceComparison] = {}
    squares = []
    for number, (start, end) in enumerate(work.bands(d_in, site.plan.d_out)):
        step = max(1, BLOCK_VALUES // d_in)
        parts = [(first, min(first + step, end)) for first in range(start, end, step)]
        band = [torch.zeros(last - first, d_in, dtype=torch.float64) for first, last in parts]
        for part in _blocks(task, plan, found if number == 0 else Compared()):
            if number == 0:
                sources |= site.sources(part)
                if watch:
                    watch(site.plan, part.pool, part.scalings)
            rows, factors = part.pool.rows, site.factors(part)
            for total, (first, last) in zip(band, parts, strict=True):
                total += update_block(rows, d_in, first, last, torch.float64, factors)
            del part, rows  # before the next is read
        for total, (first, last) in zip(band, parts, strict=True):
            own = update_block(site.merged.rows, d_in, first, last, torch.float64)
            gaps = [float((own - scale * total).square_().sum()) for scale in scales]
            squares.append([float(total.square_().sum()), *gaps])
    norm, *errors = (math.fsum(column) for column in zip(*squares, strict=True))
    return site.compared(*site.compare(norm, sources), errors)


def _blocks(task: SolveTask, plan: Plan, found: Compared) -> Iterator[_Part]:
    """The parts of a site's pool, one at a time."""
    [site] = task.plan.sites
    for shard in shard_tasks(task):
        yield _Part.of(site.site, _extracted(shard, plan, found))


def _extracted(task: SolveTask, plan: Plan, found: Compared) -> Extraction:
    """What a task reads, and its hashes noted."""
    extraction = extract(task, as_stored=True)
    for number, error in extraction.quarantined.items():
        raise _changed(plan.adapters[number].uri, error.problem)
    for number, hashes in extraction.tensor_hashes.items():
        found.tensor_hashes.setdefault(number, []).extend(hashes)
    return extraction


def _changed(uri: str, problem: str) -> VerificationFailed:
    return VerificationFailed(
        uri,
        f"it was changed since the merge: {problem}",
        "Merge again, or restore the sources.",
    )
