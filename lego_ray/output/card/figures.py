"""How far a merged adapter is from its sources, site by site, in a few lines."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lego_ray.output.card.markdown import code


@dataclass(frozen=True, slots=True)
class SiteFigures:
    """What is known of one solved site.

    Attributes:
        site: The target module's path.
        n_msus: Size of its pool.
        rank: Merged rank, before padding.
        relative_error: Of the merged update to the sum of the sources'; not finite where that is 0.
        norm_ratio: Norm of the merged update over that of the sum; likewise.
    """

    site: str
    n_msus: int
    rank: int
    relative_error: float
    norm_ratio: float


_ROWS: tuple[tuple[str, Callable[[SiteFigures], float], str], ...] = (
    ("MSUs", lambda s: s.n_msus, "{:,.0f}"),
    ("merged rank", lambda s: s.rank, "{:,.0f}"),
    # Three decimals: the same for whatever order the sums were taken in.
    ("relative error to the sum of the updates", lambda s: s.relative_error, "{:.3f}"),
    ("norm, as a share of the sum's", lambda s: s.norm_ratio, "{:.3f}"),
)


def figures_table(sites: Sequence[SiteFigures]) -> str:
    """A table of the smallest, the middle and the largest of each figure, and where that one is.

    The same for any order of the sites. A figure that is a number nowhere has no row.

    Args:
        sites: Every solved site.

    Returns:
        Markdown, without a line break at the end; empty without sites.
    """
    rows = []
    for name, value, form in _ROWS:
        found = sorted((float(value(s)), s.site) for s in sites if math.isfinite(float(value(s))))
        if not found:
            continue
        low, middle, (high, _) = found[0][0], found[(len(found) - 1) // 2][0], found[-1]
        where = min(site for number, site in found if number == high)
        shown = " | ".join(form.format(number) for number in (low, middle, high))
        rows.append(f"| {name} | {shown} | {code(where) if low != high else '-'} |")
    if not rows:
        return ""
    head = ["| a site's | smallest | median | largest | largest at |", "|---|---|---|---|---|"]
    return "\n".join([*head, *rows])
