"""Shares and distances of `msus` against what is true of them in every merge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lego_ray.catalog.repair.asking import ask

# Shares are rounded to 2^-24 each; those of a site of many millions of MSUs add up to so much.
_ROUNDING = 2.0**-23
_LEAST = 1e-4
# Releases have added up the squares of distances in different orders and widths.
_SQUARES = 1e-3
# Less than this is rounding of float32 factors.
_NO_INERTIA = 1e-8
# Methods that merge A and B apart: a rank that only one of the two has counts as a half.
_APART = frozenset({"linear", "magnitude_prune", "dare_linear", "ties", "dare_ties"})

_SUMS = """
    WITH ranks AS (
        SELECT merge_id, site, cluster, count(*) AS n, count(weight) AS known, sum(weight) AS total,
            min(weight) AS low, max(weight) AS high, sum(distance * distance) AS squares
        FROM msus GROUP BY merge_id, site, cluster
    )
    SELECT merge_id, site, sum(n)::BIGINT, (sum(n) - sum(known))::BIGINT, sum(total),
        count(*) FILTER (cluster >= 0), max(greatest(abs(low * n - 1), abs(high * n - 1))),
        sum(squares)
    FROM ranks GROUP BY merge_id, site
"""


@dataclass(frozen=True, slots=True)
class Sums:
    """The shares and distances of one site.

    Attributes:
        rows: Its rows.
        unknown: How many have no share.
        total: Sum of the shares.
        ranks: Merged ranks that have rows.
        uneven: How far a share times the rows of its rank is from 1, at most.
        squares: Sum of the squares of the distances; None if there are none.
    """

    rows: int
    unknown: int
    total: float | None
    ranks: int
    uneven: float | None
    squares: float | None

    def wrong(self, method: str, inertia: float | None) -> str:
        """What cannot be so, or nothing.

        Args:
            method: The merge's method.
            inertia: The site's; None if it is unknown, or not the sum of these squares.
        """
        if self.unknown or self.total is None or self.uneven is None:
            return ""  # of a release that did not record shares
        rounding = _LEAST + self.rows * _ROUNDING
        if method in ("lego", "concat"):
            if self.uneven > rounding:
                return "has shares that are not 1 over the MSUs of their merged rank"
        else:
            step = 0.5 if method in _APART else 1.0
            off = abs(self.total / step - round(self.total / step)) * step
            if off > rounding or self.total > self.ranks + rounding:
                return f"has shares that add up to {self.total:.6g} in {self.ranks} merged ranks"
            if step == 1 and self.ranks - self.total > rounding:
                return f"has shares that add up to {self.total:.6g} in {self.ranks} merged ranks"
        if method == "lego" and inertia is not None and self.squares is not None:
            larger = max(inertia, self.squares)
            if larger > _NO_INERTIA and abs(inertia - self.squares) > _SQUARES * larger:
                return (
                    f"has distances whose squares add up to {self.squares:.6g}, its inertia is "
                    f"{inertia:.6g}"
                )
        return ""


def sums_of(uri: str, rows: Any) -> dict[str, dict[str, Sums]]:
    """The sums of each site of each merge.

    Args:
        uri: The table's, for errors.
        rows: Rows of `msus`, an Arrow table or dataset.
    """
    found: dict[str, dict[str, Sums]] = {}
    for merge_id, site, *sums in ask(uri, {"msus": rows}, _SUMS):
        found.setdefault(merge_id, {})[site] = Sums(*sums)
    return found


def wrong_shares(
    sums: Mapping[str, Sums], method: str, inertias: Mapping[str, float | None]
) -> list[str]:
    """What is wrong with the shares of a merge, a sentence a site.

    Args:
        sums: Of its sites, by name.
        method: Its method.
        inertias: Inertia of each site, as for `Sums.wrong`.
    """
    said = {site: sums[site].wrong(method, inertias.get(site)) for site in sorted(sums)}
    return [f"{site} {problem}" for site, problem in said.items() if problem]
