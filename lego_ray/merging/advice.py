"""One line of advice after a merge that holds little of its adapters, from numbers it has anyway."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import median

from lego_ray.planning.plan import Plan
from lego_ray.tasks.values import SiteResult

# Below this share there is advice. Of the ten sample adapters at rank 8 `svd` holds half, the most that
# an adapter of the rank can, and k-means a fifth.
LITTLE = 0.25


def advice_of(plan: Plan, sites: Sequence[SiteResult]) -> str | None:
    """What to try after a merge whose update has little in common with the sum of its adapters' updates.

    The number is `cos(W, S)^2` in the median module, W the merged update and S the sum: the share of
    `||S||^2` that W accounts for at its best scale. The scale of W has no part in it, so a mean is
    judged as the sum is, and the exact sum or mean of any adapters has 1.

    Args:
        plan: What was merged.
        sites: What came of it.

    Returns:
        The advice, without a full stop; None if the numbers do not call for any, if one adapter was
        merged, and of an update, which has its drift.
    """
    if len(plan.adapters) < 2 or plan.recipe.parent:
        return None
    shares = list(_shares(sites))
    if not shares or (share := median(shares)) >= LITTLE:
        return None
    nearer = "" if plan.recipe.method == "svd" else ", or a method nearer to the sum, such as svd"
    return (
        f"at rank {plan.rank} the merge accounts for {_percent(share)} of the sum of the "
        f"{len(plan.adapters)} adapters' updates (of its squared norm, in the median module): they "
        "have too little in common for this rank and method. Consider groups of similar adapters "
        "(groups: auto in a recipe file), a higher rank (lego-ray plan --errors shows what each can "
        f"reach){nearer}"
    )


def _shares(sites: Iterable[SiteResult]) -> Iterable[float]:
    """`cos(W, S)^2` of each module, from `|W - S| / |S|` and `|W| / |S|`; not where S is zero."""
    for site in sites:
        error, ratio = site.relative_error, site.norm_ratio
        if not (math.isfinite(error) and math.isfinite(ratio)):
            continue
        if ratio <= 0:
            yield 0.0
        else:
            cosine = (1 + ratio * ratio - error * error) / (2 * ratio)
            yield min(1.0, cosine * cosine) if cosine > 0 else 0.0


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else "less than 1 %"
