"""Exact Frobenius norms of sums of rank-one updates, without a dense d_out x d_in matrix."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

# Values of a dense block when n is so large that blocks of the sum are cheaper than n^2 products.
BLOCK_VALUES = 4_000_000


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

    def relative_error(self, scale: float = 1.0) -> float:
        """`||W - c S||_F / ||c S||_F` for c = scale; 0 where both are zero, infinite where S is.

        The difference of squares loses half of float64's digits, so an exact merge shows about 1e-8.
        """
        # Updates that cancel leave a sum of nothing but rounding, which may be below zero.
        against = scale * scale * max(self.total, 0.0)
        squared = self.merged + against - 2 * scale * self.inner
        if against == 0:
            return 0.0 if self.merged == 0 else float("inf")
        return float((max(squared, 0.0) / against) ** 0.5)

    @property
    def norm_ratio(self) -> float:
        """`||W||_F / ||S||_F`; 1 where both are zero."""
        merged, total = max(self.merged, 0.0), max(self.total, 0.0)
        if total == 0:
            return 1.0 if merged == 0 else float("inf")
        return float((merged / total) ** 0.5)


def inner_product(left: Tensor, right: Tensor, d_in: int) -> float:
    """`<sum_i b_i a_i^T, sum_j b'_j a'_j^T>` by `sum_ij (a_i . a'_j)(b_i . b'_j)`.

    Args:
        left: Rows `[a ; b]`, shape (n, d), any float type.
        right: Rows, shape (m, d).
        d_in: Length of the `a` half.
    """
    wide = right.double()
    total = 0.0
    for start in range(0, left.shape[0], 1024):
        block = left[start : start + 1024].double()
        total += float(
            ((block[:, :d_in] @ wide[:, :d_in].T) * (block[:, d_in:] @ wide[:, d_in:].T)).sum()
        )
    return total


def squared_norm_of_sum(rows: Tensor, d_in: int) -> float:
    """`|| sum_i b_i a_i^T ||_F^2` by the cheaper of n^2 inner products and dense row blocks.

    Args:
        rows: Rows `[a ; b]`, shape (n, d), float32.
        d_in: Length of the `a` half.
    """
    n, d = rows.shape
    d_out = d - d_in
    if n * d <= 2 * d_in * d_out:
        return inner_product(rows, rows, d_in)
    a = rows[:, :d_in].double()
    step = max(1, BLOCK_VALUES // d_in)
    total = 0.0
    for start in range(0, d_out, step):
        b = rows[:, d_in + start : d_in + min(start + step, d_out)].double()
        total += float((b.T @ a).square().sum())
    return total


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
