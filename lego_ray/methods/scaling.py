"""The scale of a merged site's update, whatever the method: a number, or a rule that finds one.

Neither rule looks at data, and both are functions of the site's factors alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from lego_ray.errors import InvalidOption
from lego_ray.lazy import Tensor
from lego_ray.methods.base import SiteSolution, scaled_rows
from lego_ray.methods.names import SCALE_RULES
from lego_ray.numerics.msu import squared_norms
from lego_ray.numerics.norms import squared_norm_of_sum
from lego_ray.numerics.pool import Pool
from lego_ray.numerics.shards.spread import SpreadPool
from lego_ray.numerics.similarity.per_source import (
    products_with_sources,
    shard_products,
    shard_squared_norms,
    squared_norms_of_sources,
)

FLAG = "--output-scale"
SOURCE_NORM, SUM_FIT = SCALE_RULES
RULES = SCALE_RULES
# A merged update below this share of what it is the sum of is what float32 leaves of parts that cancel.
SMALLEST = 2.0**-20


def checked_output_scale(scale: str | float) -> str | float:
    """An output scale in its one spelling: a float, or a rule such as `source-norm` or `sum-fit*0.5`.

    Raises:
        InvalidOption: If it is neither, or a factor is not finite or 0.
    """
    rule, factor = parts(scale)
    return f"{rule}*{factor!r}" if rule and factor != 1 else rule or factor


def parts(scale: str | float) -> tuple[str, float]:
    """The rule of an output scale, empty for none, and the additional factor.

    Args:
        scale: A number, a rule, or `RULE*FACTOR`.

    Raises:
        InvalidOption: If it is none of these, or the factor is 0 or not finite.
    """
    rule, factor = "", scale
    if isinstance(scale, str):
        rule, times, text = scale.partition("*")
        try:
            factor = float(text) if times else 1.0
        except ValueError:
            factor = math.nan
        if rule not in RULES:
            raise InvalidOption(
                FLAG,
                f"{scale!r} is neither a number nor one of {', '.join(RULES)}",
                "A rule may be followed by a factor: source-norm*1.5.",
            )
    if (
        not isinstance(factor, int | float)
        or isinstance(factor, bool)
        or not math.isfinite(factor)
        or factor == 0
    ):
        raise InvalidOption(FLAG, f"{scale!r} has no finite factor other than 0")
    return rule, float(factor)


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
    rule, factor = parts(output_scale)
    if rule == SOURCE_NORM:
        factor *= _norm_factor(rows, squares, d_in)
    return scaled_rows(rows, factor * site_scale, d_in)


def source_squares(pool: Pool | SpreadPool) -> dict[int, float]:
    """`||dW_t||_F^2` of each adapter of a pool, by its number."""
    if isinstance(pool, Pool):
        return squared_norms_of_sources(pool)
    return _joined(pool.shards.map(shard_squared_norms))


def scaled(
    solution: SiteSolution, pool: Pool | SpreadPool, output_scale: str | float, site_scale: float
) -> SiteSolution:
    """A merged site with its update W scaled; to the same bits whatever holds the pool.

    With `dW_t` the weighted updates of the T sources that have the site:

    - `source-norm`: `||c W||_F = sqrt(mean_t ||dW_t||_F^2)`, their root mean square. Squares add up over
      sites, so that the merged adapter as a whole is as long as its sources as a whole; a mean of norms
      has no such sum.
    - `sum-fit`: `c = <W, sum_t dW_t> / ||W||_F^2`, which minimises `||c W - sum_t dW_t||_F`.

    A W that is nothing but rounding is left to the factors alone.

    Args:
        solution: The site as the method merged it.
        pool: What it was merged from.
        output_scale: A factor, or a rule and a factor.
        site_scale: The site's own factor.
    """
    rule, factor = parts(output_scale)
    d_in = pool.d_in
    if rule == SOURCE_NORM:
        factor *= _to_source_norm(solution, pool)
    elif rule == SUM_FIT:
        factor *= _to_sum(solution, pool)
    return solution.scaled(factor * site_scale, d_in)


def _to_source_norm(solution: SiteSolution, pool: Pool | SpreadPool) -> float:
    return _norm_factor(solution.rows, list(source_squares(pool).values()), pool.d_in)


def _norm_factor(rows: Tensor, squares: Sequence[float], d_in: int) -> float:
    # Rounded once, so that the order of the adapters is free.
    total = math.fsum(squares)
    merged = _squared_norm(rows, d_in)
    if merged <= SMALLEST**2 * total:
        return 1.0
    return math.sqrt(total / len(squares) / merged)


def _to_sum(solution: SiteSolution, pool: Pool | SpreadPool) -> float:
    if isinstance(pool, Pool):
        products = products_with_sources(pool, solution.rows)
    else:
        products = _joined(pool.shards.map(shard_products, solution.rows))
    merged = _squared_norm(solution.rows, pool.d_in)
    return math.fsum(products.values()) / merged if merged > 0 else 1.0


def _squared_norm(rows: Tensor, d_in: int) -> float:
    """`||W||_F^2`; 0 where its terms cancel except for rounding."""
    terms = squared_norms(rows[:, :d_in]) * squared_norms(rows[:, d_in:])
    found = squared_norm_of_sum(rows, d_in)
    return found if found > SMALLEST**2 * float(terms.sum()) else 0.0


def _joined(parts: Iterable[Mapping[int, float]]) -> dict[int, float]:
    return {number: value for part in parts for number, value in part.items()}
