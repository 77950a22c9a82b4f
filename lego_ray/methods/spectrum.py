"""The step after a merge: the singular values of a merged update to a power, the directions kept.

A power of 1 leaves the update as the method made it, one of 0 makes all its directions equally strong.
`adaptive` chooses the power by how far the adapters differ: 1 for a lone adapter and for copies of one,
0 from two unrelated ones on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from lego_ray.errors import InvalidOption
from lego_ray.lazy import Tensor, torch
from lego_ray.methods.base import SiteSolution
from lego_ray.methods.names import ADAPTIVE
from lego_ray.methods.sources_of_site import SiteSources
from lego_ray.numerics.decompositions.truncated_svd import svd_of_sum
from lego_ray.numerics.norms import UpdateComparison

FLAG = "--spectrum"
# Counts are whole numbers of this: the last bits of a norm, which differ with the way a site was
# solved, are to change no byte of an adapter.
QUANTUM = 2.0**-20
# By how much less the squared norm of a sum must be to be less for certain: a merge is compared with
# the sum by products that are right to some 1e-5 of it.
MARGIN = 2.0**-4


def checked_spectrum(power: str | float) -> str | float:
    """A power of the spectrum in its one spelling: a float, or `adaptive`.

    Raises:
        InvalidOption: If it is neither, or negative or not finite.
    """
    if power == ADAPTIVE:
        return ADAPTIVE
    if not isinstance(power, int | float) or isinstance(power, bool):
        raise InvalidOption(FLAG, f"{power!r} is neither a number nor {ADAPTIVE}")
    if not math.isfinite(power) or power < 0:
        raise InvalidOption(FLAG, f"{power!r} is not a finite number of at least 0")
    return float(power)


def effective_count(squares: Sequence[float], total: float) -> float:
    """How many unrelated adapters a site's adapters are worth: T_eff.

    `T_eff = clip((sum_t ||dW_t||_F)^2 / ||sum_t dW_t||_F^2, 1, T)`: 1 for one adapter and for copies of
    one, T for T adapters of one norm that are orthogonal to each other, and for such as cancel.

    Args:
        squares: `||dW_t||_F^2` of each adapter that has the site, weight and scaling folded in.
        total: `||sum_t dW_t||_F^2`.

    Returns:
        From 1 to T, a multiple of `QUANTUM`.
    """
    lengths = math.fsum(math.sqrt(max(each, 0.0)) for each in squares)
    if lengths == 0:
        return 1.0
    share = max(total, 0.0) / lengths**2
    count = len(squares) if share * len(squares) <= 1 else 1.0 / share
    return max(1.0, round(count / QUANTUM) * QUANTUM)


def count_up_to(most: float, sources: SiteSources, about: float) -> float:
    """`effective_count` of a site's adapters, or infinity if it is above some count for certain.

    The norm of the sum, in float64, costs more than all else that a rule looks at. A rule that has a
    largest count does not need it where the merge's comparison already shows that the count is above.

    Args:
        most: The largest count that matters.
        sources: The adapters.
        about: `||sum_t dW_t||_F^2` as the merge was compared with it, far nearer than `MARGIN`.

    Returns:
        The count; or infinity, only where the count is above `most`.
    """
    squares = sources.squares
    lengths = math.fsum(math.sqrt(max(each, 0.0)) for each in squares)
    if len(squares) > most and 0 < about * most * (1 + MARGIN) < lengths**2:
        return math.inf
    return effective_count(squares, sources.total)


def with_spectrum(solution: SiteSolution, sources: SiteSources, power: str | float) -> SiteSolution:
    """A merged site with its spectrum to a power, at the norm that it had.

    With `W = sum_i s_i u_i v_i^T` it is `c sum_i s_i^p u_i v_i^T`, c such that the Frobenius norm stays.
    `adaptive` is `p = max(0, 2 - T_eff)`; see `effective_count`.

    Which MSU went to which cluster stays as it was; the rows are then no clusters' centroids.

    Args:
        solution: The site as the method merged it.
        sources: What it was merged from.
        power: p, or `adaptive`.
    """
    if power == ADAPTIVE:
        power = max(0.0, 2.0 - count_up_to(2.0, sources, solution.comparison.total))
    if power == 1:
        return solution
    rows = rows_to_power(solution.rows, sources.d_in, float(power))
    found = solution.comparison
    comparison = UpdateComparison(found.merged, found.total, sources.inner_with_sum(rows))
    return replace(solution, rows=rows, comparison=comparison)


def rows_to_power(rows: Tensor, d_in: int, power: float) -> Tensor:
    """Merged rows whose update has its singular values to a power; see `with_spectrum`.

    Terms that are rounding and nothing else stay out, as rows of zeros at the end.

    Args:
        rows: Rows `[a ; b]` of an update, shape (k, d), float32.
        d_in: Length of the `a` half.
        power: p, at least 0.

    Returns:
        Balanced rows `sqrt(s'_i) [v_i ; u_i]`, the largest first, shape (k, d), float32.
    """
    if power == 1 or not rows.any():
        return rows
    found = svd_of_sum(rows, d_in)
    kept = found.n_terms
    if not kept:  # terms that cancel
        return rows
    s = found.s[:kept]
    wanted = (s / s[0]) ** power
    wanted *= torch.linalg.vector_norm(found.s) / torch.linalg.vector_norm(wanted)
    out = torch.zeros_like(rows)
    out[:kept] = (found.rows(kept) * (wanted / s).sqrt()[:, None]).float()
    return out
