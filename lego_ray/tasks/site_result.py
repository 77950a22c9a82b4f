"""A solved site as it is sent, checkpointed and written."""

from __future__ import annotations

from typing import Any

from lego_ray.lazy import NDArray, Tensor, np, torch
from lego_ray.methods.base import SiteSolution
from lego_ray.numerics.kmeans.running_sums import SiteFit
from lego_ray.numerics.msu import split_rows
from lego_ray.planning.task_plans import SitePlan
from lego_ray.tasks.values import SiteResult

# Source rank and merged rank of an adapter's shares that are not named, added up.
OTHERS = -1


def site_result(
    site: SitePlan, d_in: int, solution: SiteSolution, fit: SiteFit | None = None
) -> SiteResult:
    """A solution as it is sent, checkpointed and written.

    Args:
        site: The site.
        d_in: Length of the `a` half of a row.
        solution: Its solution.
        fit: What updates of the merge need of it, if that is wanted.
    """
    a, b = split_rows(solution.rows, d_in)
    adapters, ranks, labels, weights = _shares(solution)
    # Readers of the catalog look for an adapter's ranks together.
    keys = (ranks, adapters) if labels is None else (labels, ranks, adapters)
    order = np.lexsort([key.numpy() for key in keys])

    def ordered(values: Tensor | None, kind: type) -> NDArray[Any] | None:
        return None if values is None else values.numpy()[order].astype(kind)

    return SiteResult(
        plan=site,
        a=a.numpy(),
        b=b.numpy(),
        adapters=adapters.numpy()[order].astype(np.int32),
        ranks=ranks.numpy()[order].astype(np.int32),
        clusters=ordered(labels, np.int32),
        distances=ordered(solution.distances, np.float64),
        weights=ordered(weights, np.float64),
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


def _shares(solution: SiteSolution) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Adapter, source rank, merged rank and share of each row of the catalog's `msus`."""
    found = solution.lineage
    if found is None:
        return solution.adapters, solution.ranks, solution.labels, solution.weights
    rest = torch.full_like(found.adapters, OTHERS)
    return (
        torch.cat([solution.adapters[found.at], found.adapters]),
        torch.cat([solution.ranks[found.at], rest]),
        torch.cat([found.ranks, rest]),
        torch.cat([found.shares, found.rest]),
    )
