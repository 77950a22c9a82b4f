"""The scale of a merged site's update, whatever the method: a number, or a rule that finds one.

No rule looks at data, and all are functions of the site's factors alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from lego_ray.errors import InvalidOption
from lego_ray.lazy import Tensor
from lego_ray.methods.base import SiteSolution, scaled_rows
from lego_ray.methods.names import ADAPTIVE, SCALE_RULES
from lego_ray.methods.sources_of_site import SiteSources
from lego_ray.methods.spectrum import count_up_to
from lego_ray.numerics.msu import squared_norms
from lego_ray.numerics.norms import squared_norm_of_sum

FLAG = "--output-scale"
SOURCE_NORM, SUM_FIT, _ = SCALE_RULES
RULES = SCALE_RULES
# How many times its adapters' norm `adaptive` lets a merged update have: the best measured for sums.
CAP = 1.5
# A merged update below this share of what it is the sum of is what float32 leaves of parts that cancel.
SMALLEST = 2.0**-20


class OutputScale(NamedTuple):
    """An output scale in its parts.

    Attributes:
        rule: A rule, or empty for none.
        factor: On what the rule gives, or on 1.
        cap: Of `adaptive`: most norms of its adapters that a merged update may have.
    """

    rule: str
    factor: float
    cap: float = CAP


def checked_output_scale(scale: str | float) -> str | float:
    """An output scale in its one spelling: a float, or a rule such as `source-norm` or `sum-fit*0.5`.

    Raises:
        InvalidOption: If it is neither, or a factor is not finite or 0.
    """
    rule, factor, cap = parts(scale)
    if not rule:
        return factor
    capped = rule if cap == CAP else f"{rule}:{cap!r}"
    return capped if factor == 1 else f"{capped}*{factor!r}"


def parts(scale: str | float) -> OutputScale:
    """The rule of an output scale and what goes with it.

    Args:
        scale: A number, a rule, or `RULE*FACTOR`; `adaptive` may have its cap, `adaptive:CAP`.

    Raises:
        InvalidOption: If it is none of these, the factor is 0 or not finite, or the cap is not at
            least 1.
    """
    rule, factor, cap = "", scale, CAP
    if isinstance(scale, str):
        rule, times, text = scale.partition("*")
        factor = _number(text) if times else 1.0
        rule, colon, text = rule.partition(":")
        if rule not in RULES or (colon and rule != ADAPTIVE):
            raise InvalidOption(
                FLAG,
                f"{scale!r} is neither a number nor one of {', '.join(RULES)}",
                "A rule may be followed by a factor: source-norm*1.5; adaptive by a cap: adaptive:2.",
            )
        cap = _number(text) if colon else CAP
        if not (math.isfinite(cap) and cap >= 1):
            raise InvalidOption(FLAG, f"{scale!r} has no finite cap of at least 1")
    if (
        not isinstance(factor, int | float)
        or isinstance(factor, bool)
        or not math.isfinite(factor)
        or factor == 0
    ):
        raise InvalidOption(FLAG, f"{scale!r} has no finite factor other than 0")
    return OutputScale(rule, float(factor), cap)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def scaled_rows_of(
    rows: Tensor,
    squares: Sequence[float],
    d_in: int,
    output_scale: str | float,
    site_scale: float,
) -> Tensor:
    """Merged rows scaled as `scaled` does, without the pool; of rules, `source-norm` alone can be.

    Args:
        rows: Rows `[a' ; b']` as the method merged them, shape (k, d), float32.
        squares: `||dW_t||_F^2` of each source that has the site; not looked at without the rule.
        d_in: Length of the `a` half.
        output_scale: As for `scaled`.
        site_scale: As for `scaled`.
    """
    rule, factor, _ = parts(output_scale)
    if rule == SOURCE_NORM:
        factor *= _norm_factor(rows, squares, d_in)
    return scaled_rows(rows, factor * site_scale, d_in)


def scaled(
    solution: SiteSolution, sources: SiteSources, output_scale: str | float, site_scale: float
) -> SiteSolution:
    """A merged site with its update W scaled; to the same bits whatever holds the pool.

    With `dW_t` the weighted updates of the T sources that have the site:

    - `source-norm`: `||c W||_F = sqrt(mean_t ||dW_t||_F^2)`, their root mean square. Squares add up over
      sites, so that the merged adapter as a whole is as long as its sources as a whole; a mean of norms
      has no such sum.
    - `sum-fit`: `c = <W, sum_t dW_t> / ||W||_F^2`, which minimises `||c W - sum_t dW_t||_F`.
    - `adaptive`: `||c W||_F = min(sqrt(T_eff), cap)` times their root mean square: the norm of the sum
      where few adapters have nothing in common, of one where they are equal. See `effective_count`.

    A W that is nothing but rounding is left to the factors alone.

    Args:
        solution: The site as the method merged it.
        sources: What it was merged from.
        output_scale: A factor, or a rule and a factor.
        site_scale: The site's own factor.
    """
    rule, factor, cap = parts(output_scale)
    d_in = sources.d_in
    if rule in (SOURCE_NORM, ADAPTIVE):
        norms = 1.0
        if rule == ADAPTIVE:
            count = count_up_to(cap**2, sources, solution.comparison.total)
            norms = min(math.sqrt(count), cap)
        factor *= _norm_factor(solution.rows, sources.squares, d_in, norms)
    elif rule == SUM_FIT:
        merged = _squared_norm(solution.rows, d_in)
        factor *= sources.inner_with_sum(solution.rows) / merged if merged > 0 else 1.0
    return solution.scaled(factor * site_scale, d_in)


def _norm_factor(rows: Tensor, squares: Sequence[float], d_in: int, norms: float = 1.0) -> float:
    # Rounded once, so that the order of the adapters is free.
    total = math.fsum(squares)
    merged = _squared_norm(rows, d_in)
    if merged <= SMALLEST**2 * total:
        return 1.0
    return norms * math.sqrt(total / len(squares) / merged)


def _squared_norm(rows: Tensor, d_in: int) -> float:
    """`||W||_F^2`; 0 where its terms cancel except for rounding."""
    terms = squared_norms(rows[:, :d_in]) * squared_norms(rows[:, d_in:])
    found = squared_norm_of_sum(rows, d_in)
    return found if found > SMALLEST**2 * float(terms.sum()) else 0.0
