"""Exact Frobenius norms of sums of rank-one updates, without a dense d_out x d_in matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lego_ray.lazy import Tensor, torch
from lego_ray.numerics.kmeans.partial_sums import CHUNK, chunks

# Values of a dense block when n is so large that blocks of the sum are cheaper than n^2 products:
# 8 MB of float64, no more than a few k x d.
BLOCK_VALUES = 1_000_000
# Rows whose float32 products are summed before they are widened.
NARROW_ROWS = 1024
# One for each row, shape (n,), float64; 1 for all if None.
Factors = Tensor | None


@dataclass(frozen=True, slots=True)
class UpdateComparison:
    """A merged update W against the sum S of its sources, in squared parameter units.

    Attributes:
        merged: `||W||_F^2`.
        total: `||S||_F^2`.
        inner: `<W, S>`.
    """

    merged: float
    total: float
    inner: float

    def __add__(self, other: UpdateComparison) -> UpdateComparison:
        """The comparison over two sites together."""
        return UpdateComparison(
            self.merged + other.merged, self.total + other.total, self.inner + other.inner
        )

    def squared_error(self, scale: float = 1.0) -> float:
        """`||W - c S||_F^2` for c = scale.

        A difference of squares: its own error is about 1e-16 of the larger one, not of itself.
        """
        # Updates that cancel leave a sum of nothing but rounding, which may be below zero.
        against = scale * scale * max(self.total, 0.0)
        return max(self.merged + against - 2 * scale * self.inner, 0.0)

    def relative_error(self, scale: float = 1.0) -> float:
        """`||W - c S||_F / ||c S||_F` for c = scale; 0 where both are zero, infinite where S is.

        The difference of squares loses half of float64's digits, so an exact merge shows about 1e-8.
        """
        against = scale * scale * max(self.total, 0.0)
        if against == 0:
            return 0.0 if self.merged == 0 else float("inf")
        return float((self.squared_error(scale) / against) ** 0.5)

    @property
    def norm_ratio(self) -> float:
        """`||W||_F / ||S||_F`; 1 where both are zero."""
        merged, total = max(self.merged, 0.0), max(self.total, 0.0)
        if total == 0:
            return 1.0 if merged == 0 else float("inf")
        return float((merged / total) ** 0.5)

    @property
    def least_squares_scale(self) -> float | None:
        """`<W, S> / ||W||_F^2`, the c of least `||c W - S||_F`; None where W is zero."""
        return self.inner / self.merged if self.merged > 0 else None


def inner_product(
    left: Tensor, right: Tensor, d_in: int, left_factors: Factors = None, factors: Factors = None
) -> float:
    """`<sum_i b_i a_i^T, sum_j b'_j a'_j^T>` by `sum_ij (a_i . a'_j)(b_i . b'_j)`.

    Args:
        left: Rows `[a ; b]`, shape (n, d), any float type; the fewer of the two, for they are widened
            to float64 as a whole.
        right: Rows, shape (m, d).
        d_in: Length of the `a` half.
        left_factors: On the terms of the left.
        factors: On those of the right.
    """
    wide = _widened(left, d_in, left_factors)
    total = 0.0
    for some in chunks(right.shape[0]):
        block = _widened(right[some], d_in, None if factors is None else factors[some])
        total += float(
            ((wide[:, :d_in] @ block[:, :d_in].T) * (wide[:, d_in:] @ block[:, d_in:].T)).sum()
        )
    return total


def squared_norm_of_sum(rows: Tensor, d_in: int, factors: Factors = None) -> float:
    """`|| sum_i f_i b_i a_i^T ||_F^2` by the cheaper of n^2 inner products and dense row blocks.

    Args:
        rows: Rows `[a ; b]`, shape (n, d), float32.
        d_in: Length of the `a` half.
        factors: f, 1 if None.
    """
    n, d = rows.shape
    d_out = d - d_in
    if n * d <= 2 * d_in * d_out:
        return sum(
            inner_product(
                rows[some], rows, d_in, None if factors is None else factors[some], factors
            )
            for some in chunks(n)
        )
    return math.fsum(
        float(update_block(rows, d_in, start, end, torch.float64, factors).square().sum())
        for start, end in block_bounds(d_in, d_out)
    )


def squared_distance(
    merged: Tensor, rows: Tensor, d_in: int, scale: float, factors: Factors = None
) -> float:
    """`||W - c S||_F^2` for c = scale, to float64 rounding of itself; a block of rows at a time.

    Args:
        merged: Rows of W, shape (k, d), float32.
        rows: Rows of S, shape (n, d), float32.
        d_in: Length of the `a` half.
        scale: c.
        factors: On the terms of S.
    """
    squares = []
    for start, end in block_bounds(d_in, rows.shape[1] - d_in):
        gap = update_block(rows, d_in, start, end, torch.float64, factors).mul_(-scale)
        gap += update_block(merged, d_in, start, end, torch.float64)
        squares.append(float(gap.square_().sum()))
    return math.fsum(squares)


def block_bounds(d_in: int, d_out: int) -> list[tuple[int, int]]:
    """Cuts the rows of a d_out x d_in matrix into blocks of at most `BLOCK_VALUES` values.

    Args:
        d_in: Columns of the matrix.
        d_out: Rows of the matrix.

    Returns:
        First row and one past the last of each block, in order.
    """
    step = max(1, BLOCK_VALUES // d_in)
    return [(start, min(start + step, d_out)) for start in range(0, d_out, step)]


def update_block(
    rows: Tensor, d_in: int, start: int, end: int, kind: torch.dtype, factors: Factors = None
) -> Tensor:
    """Rows `start` to `end` of the dense `sum_i f_i b_i a_i^T`.

    Args:
        rows: Rows `[a ; b]`, shape (n, d), float32.
        d_in: Length of the `a` half.
        start: First row wanted.
        end: One past the last.
        kind: Of the products of a thousand rows: float64; or float32, twice as fast, whose squared norm
            is right to about 1e-8, enough for relative errors above 1e-3.
        factors: f, 1 if None.

    Returns:
        Shape (end - start, d_in), float64. Those of a pool's parts add up to the pool's.
    """
    out = torch.zeros(end - start, d_in, dtype=torch.float64, device=rows.device)
    for some in chunks(rows.shape[0], NARROW_ROWS if kind == torch.float32 else CHUNK):
        block = rows[some]
        b = block[:, d_in + start : d_in + end].T.to(kind)
        if factors is not None:
            b = b * factors[some].to(kind)
        out += b @ block[:, :d_in].to(kind)
    return out


def _widened(rows: Tensor, d_in: int, factors: Factors) -> Tensor:
    """Rows in float64, the factors on their `b` halves."""
    wide = rows.double()
    if factors is not None:
        wide[:, d_in:] *= factors[:, None]
    return wide


def compare_updates(
    merged: Tensor, sources: Tensor, d_in: int, total: float | None = None
) -> UpdateComparison:
    """Compares a merged site with the sum of its sources.

    Args:
        merged: Rows of the merged factor pair, shape (k, d).
        sources: Rows of the pool, shape (n, d), scaling folded in.
        d_in: Length of the `a` half.
        total: `||S||_F^2` where the caller has it already.
    """
    return UpdateComparison(
        merged=inner_product(merged, merged, d_in),
        total=squared_norm_of_sum(sources, d_in) if total is None else total,
        inner=inner_product(merged, sources, d_in),
    )
