"""The singular value decomposition of a sum of rank-one updates, from its factors."""

from __future__ import annotations

from dataclasses import dataclass

from lego_ray.lazy import Tensor, torch
from lego_ray.numerics.costs import (
    MATMUL_64,
    TOUCH,
    Costs,
    spread_fixed_bytes,
    spread_row_bytes,
)
from lego_ray.numerics.decompositions.gauge import align_signs
from lego_ray.numerics.norms import BLOCK_VALUES, UpdateComparison

# Singular values below this share of the largest are rounding of float32 factors.
SMALLEST = 2.0**-20
# Squared condition number up to which Cholesky's factor of a Gram matrix stands in for Householder's:
# what it makes is then orthonormal to about 2^-53 times that, a float32 value is right to 2^-24.
MOST_SQUARED = 2.0**24


@dataclass(frozen=True, slots=True)
class UpdateSvd:
    """`sum_i b_i a_i^T = (Q_b U) diag(s) (Q_a V)^T`, largest singular value first.

    The bases and the small matrices stay apart, so that only terms asked for are multiplied out. Their
    products have orthonormal columns; they themselves need not.

    Attributes:
        q_a: Basis of the `a` halves, shape (d_in, m_a), float64; None for the identity.
        q_b: Basis of the `b` halves, shape (d_out, m_b), float64; None for the identity.
        u: Shape (m_b, m), float64.
        s: Shape (m,), float64, m the lesser of m_a and m_b.
        v: Shape (m_a, m), float64.
    """

    q_a: Tensor | None
    q_b: Tensor | None
    u: Tensor
    s: Tensor
    v: Tensor

    @property
    def n_terms(self) -> int:
        """Number of terms that are more than rounding."""
        return int((self.s > SMALLEST * self.s[0]).sum())

    def rows(self, k: int) -> Tensor:
        """Its first k terms as balanced MSUs `sqrt(s_i) [v_i ; u_i]`.

        Of all updates of rank k these are the nearest to the sum (Eckart and Young, 1936).

        Returns:
            Shape (min(k, m), d_in + d_out), float64, signs aligned.
        """
        root = self.s[:k].sqrt()
        a, b = (self.v[:, :k] * root).T, (self.u[:, :k] * root).T
        a = a if self.q_a is None else a @ self.q_a.T
        b = b if self.q_b is None else b @ self.q_b.T
        return align_signs(torch.cat([a, b], dim=1), a.shape[1])

    def compare(self, k: int) -> UpdateComparison:
        """The first k terms against all of them."""
        squared = self.s.square()
        kept = float(squared[:k].sum())
        return UpdateComparison(merged=kept, total=float(squared.sum()), inner=kept)


def svd_of_sum(rows: Tensor, d_in: int) -> UpdateSvd:
    """Decomposes the sum of a pool's updates from triangular factors of its halves.

    With `A^T = Q_a R_a` and `B = Q_b R_b` it is `B A = Q_b (R_b R_a^T) Q_a^T`. The matrix in the middle
    has the pool's size, and the dense sum's only where the pool has more rows than both sides.

    Args:
        rows: Rows `[a ; b]`, shape (n, d_in + d_out), float32.
        d_in: Length of the `a` half.

    Returns:
        min(n, d_in, d_out) terms, computed in float64.
    """
    wide = rows.double()
    q_a, r_a, turn_a = triangular(wide[:, :d_in])
    q_b, r_b, turn_b = triangular(wide[:, d_in:])
    u, s, vh = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    u = u if turn_b is None else turn_b @ u
    return UpdateSvd(q_a, q_b, u, s, vh.T if turn_a is None else turn_a @ vh.T)


def triangular(half: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Factors the columns `X = half^T` as `(Q T) R` with `Q T` orthonormal and R triangular.

    Rows that lean little on one another, as those of adapters trained apart, need no Q of their own:
    with Cholesky's `X^T X = R^T R` it is `Q = X` and `T = R^-1`, a matrix product instead of Householder
    reflections. `Q T R` is X whatever the rounding of R, so no update is changed by it. Lengths of rows
    do not count: they are scaled to 1 before.

    Args:
        half: Shape (n, size), float64.

    Returns:
        Q of shape (size, m), R of shape (m, n), and T of shape (m, m) or None for the identity.
    """
    n, size = half.shape
    if n <= size:
        products = half @ half.T
        lengths = products.diagonal().sqrt()
        lower, failed = torch.linalg.cholesky_ex(products / lengths[:, None] / lengths)
        if not failed:
            eye = torch.eye(n, dtype=half.dtype, device=half.device)
            inverse = torch.linalg.solve_triangular(lower, eye, upper=False)
            # Of the Frobenius norms, which are no less than the condition number's own.
            if float(inverse.square().sum()) * n <= MOST_SQUARED:
                return half.T, lower.T * lengths, inverse.T / lengths[:, None]
    q, r = torch.linalg.qr(half.T)
    return q, r, None


def svd_of_dense(update: Tensor) -> UpdateSvd:
    """Decomposes a dense update, shape (d_out, d_in), float64."""
    u, s, vh = torch.linalg.svd(update, full_matrices=False)
    return UpdateSvd(None, None, u, s, vh.T)


def svd_costs(n: int, d_in: int, d_out: int) -> Costs:
    """What `svd_of_sum` takes of time and memory.

    Args:
        n: MSUs.
        d_in: Length of the `a` half.
        d_out: Length of the `b` half.
    """
    d, sides = d_in + d_out, (min(n, d_in), min(n, d_out))
    # Gram matrices, and an SVD of about 20 m^3.
    multiplies = n * (sides[0] * d_in + sides[1] * d_out) + 20 * sides[0] * sides[1] * min(sides)
    # The rows widened, what is factored, Q and R of each half, and the SVD's own three.
    wide = 8 * (4 * n * d + 6 * max(sides) ** 2)
    return Costs(multiplies / MATMUL_64 + 4 * n * d * TOUCH, wide + 4 * n * d)


def dense_costs(n: int, d_in: int, d_out: int) -> Costs:
    """What `exact_sum.dense_sum` and `svd_of_dense` take, the sum in two parts and three products.

    Args:
        n: MSUs.
        d_in: Length of the `a` half.
        d_out: Length of the `b` half.
    """
    least = min(d_in, d_out)
    multiplies = 3 * n * d_in * d_out + 20 * least * d_in * d_out
    # The sum, what is factored, both sides' vectors and LAPACK's own; shards' blocks in float64.
    dense = 8 * d_in * d_out * 5 + 8 * 4 * least * least
    blocks = spread_fixed_bytes(d_in + d_out, 1, 1) + 64 * BLOCK_VALUES
    return Costs(multiplies / MATMUL_64, dense + blocks + spread_row_bytes(1, 1) * n)
