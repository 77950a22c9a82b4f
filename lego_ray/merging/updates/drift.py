"""How far running sums have come from what a full merge would find."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from lego_ray.output.running_sums import State
from lego_ray.tasks.values import SiteResult

# Above this, a full merge is worth its time. New adapters like the old ones stay below it: their MSUs
# are as far from the centroids as the fit's own are, except for those having been fitted.
REFIT_ABOVE = 0.1


def drift_of(
    state: State, sites: Sequence[SiteResult]
) -> tuple[float | None, list[dict[str, Any]]]:
    """How much larger the inertia is than a full merge's is estimated to be.

    The estimate for a site is the fit's inertia an MSU, times the MSUs now: it takes what came to be as
    easy to cluster as what the fit had. Then `drift = inertia / estimate - 1`. It needs no adapter that
    is not read. It is too high where what came is spread wider or longer, which no clustering changes,
    and too low where what is left would now cluster better than the fit did; only `--refit` tells.

    Args:
        state: The state now.
        sites: The sites now.

    Returns:
        The drift over all sites, of the sums of both; 0 where both are 0, and None where only the
        estimate is, which is where every MSU had a cluster of its own. And for each site its `site`,
        `msus`, `inertia`, `expected` and `drift`.
    """
    fits = {s.plan.site: s for s in state.sites}
    told = []
    for site in sites:
        inertia = site.inertia or 0.0
        fit = fits[site.plan.site]
        expected = fit.inertia * (site.plan.n_msus / fit.plan.n_msus)
        told.append(
            {
                "site": site.plan.site,
                "msus": site.plan.n_msus,
                "inertia": inertia,
                "expected": expected,
                "drift": _growth(inertia, expected),
            }
        )
    return _growth(_sum(told, "inertia"), _sum(told, "expected")), told


def is_large(drift: float | None) -> bool:
    """Whether a full merge is advised."""
    return drift is None or drift > REFIT_ABOVE


def _sum(told: Iterable[dict[str, Any]], what: str) -> float:
    return math.fsum(each[what] for each in told)


def _growth(inertia: float, expected: float) -> float | None:
    if expected > 0:
        return inertia / expected - 1
    return 0.0 if inertia == 0 else None
