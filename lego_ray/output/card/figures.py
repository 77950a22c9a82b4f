"""How far a merged adapter is from its sources, site by site, in four figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SiteFigures:
    """What is known of one solved site.

    Attributes:
        site: The target module's path.
        n_msus: Size of its pool.
        rank: Merged rank, before padding.
        relative_error: Of the merged update to the sum of the sources'; not finite where that is 0.
        norm_ratio: Norm of the merged update over that of the sum; not finite in the same case.
    """

    site: str
    n_msus: int
    rank: int
    relative_error: float
    norm_ratio: float


_FIGURES: tuple[tuple[str, Callable[[SiteFigures], float], str], ...] = (
    ("MSUs", lambda s: s.n_msus, "{:,.0f}"),
    ("merged rank", lambda s: s.rank, "{:,.0f}"),
    # Three decimals: the same for whatever order the sums were taken in.
    ("relative error to the sum of the updates", lambda s: s.relative_error, "{:.3f}"),
    ("norm, as a share of the sum's", lambda s: s.norm_ratio, "{:.3f}"),
)


def figures_of(sites: Sequence[SiteFigures]) -> list[tuple[str, str, str, str, str]]:
    """Sums up the figures of all sites, the same for any order of the sites.

    Args:
        sites: Every solved site.

    Returns:
        Of each figure that is a finite number at some site: its name, the smallest, the lower median
        and the largest value as text, and the first site by name with the largest; an empty name if
        all sites have the same value.
    """
    rows = []
    for name, value, form in _FIGURES:
        found = sorted((float(value(s)), s.site) for s in sites if math.isfinite(float(value(s))))
        if not found:
            continue
        low, middle, high = found[0][0], found[(len(found) - 1) // 2][0], found[-1][0]
        where = min(site for number, site in found if number == high) if low != high else ""
        rows.append((name, form.format(low), form.format(middle), form.format(high), where))
    return rows
