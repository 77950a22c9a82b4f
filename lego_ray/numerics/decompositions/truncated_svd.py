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
from lego_ray.numerics.kmeans.gram import COLUMNS, gram
from lego_ray.numerics.norms import BLOCK_VALUES, UpdateComparison

# Singular values below this share of the largest are rounding of float32 factors.
SMALLEST = 2.0**-20
# Squared condition number up to which Cholesky's factor of a Gram matrix stands in for Householder's: it
# is then right to about 2^-53 times that, a float32 value to 2^-24.
MOST_SQUARED = 2.0**24
# Terms below this share of the largest are rounding of float64, and become zeros. A vector made of the
# rows has up to 2^-53 s_1/s_i of the first one in it: where that counts, it is of no term any more.
NOTHING = 2.0**-40


@dataclass(frozen=True, slots=True)
class UpdateSvd:
    """`sum_i b_i a_i^T = (Q_b U) diag(s) (Q_a V)^T`, largest singular value first.

    The bases and the small matrices stay apart, so that only terms asked for are multiplied out.

    Attributes:
        q_a: Basis of the `a` halves, orthonormal columns, shape (d_in, m_a), float64; None for the
            identity.
        q_b: Basis of the `b` halves, shape (d_out, m_b), likewise.
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

    def sides(self, k: int) -> tuple[Tensor, Tensor]:
        """`sqrt(s_i) v_i` and `sqrt(s_i) u_i` of the first k terms, (k', d_in) and (k', d_out)."""
        root = self.s[:k].sqrt()
        a, b = (self.v[:, :k] * root).T, (self.u[:, :k] * root).T
        return (
            a if self.q_a is None else a @ self.q_a.T,
            b if self.q_b is None else b @ self.q_b.T,
        )

    def rows(self, k: int) -> Tensor:
        """Its first k terms as balanced MSUs `sqrt(s_i) [v_i ; u_i]`.

        Of all updates of rank k these are the nearest to the sum (Eckart and Young, 1936).

        Returns:
            Shape (min(k, m), d_in + d_out), float64, signs aligned.
        """
        a, b = self.sides(k)
        return align_signs(torch.cat([a, b], dim=1), a.shape[1])

    def compare(self, k: int) -> UpdateComparison:
        """The first k terms against all of them."""
        squared = self.s.square()
        kept = float(squared[:k].sum())
        return UpdateComparison(merged=kept, total=float(squared.sum()), inner=kept)


@dataclass(frozen=True, slots=True)
class SvdOfRows(UpdateSvd):
    """The same of a pool's rows, whose bases are never made.

    With `A^T = Q_a R_a`, `B^T = Q_b R_b` and `R_b R_a^T = U S V^T` the vectors are
    `Q_a V = A^T (R_b^T U) S^-1` and `Q_b U = B^T (R_a^T V) S^-1`: products with the rows themselves.

    Attributes:
        a: The `a` halves, shape (n, d_in), float32.
        b: The `b` halves, shape (n, d_out), float32.
        r_a: Shape (m_a, n), float64.
        r_b: Shape (m_b, n), float64.
    """

    a: Tensor
    b: Tensor
    r_a: Tensor
    r_b: Tensor

    def sides(self, k: int) -> tuple[Tensor, Tensor]:
        """From the rows; see `UpdateSvd.sides`."""
        first = self.s[:k]
        there = first > NOTHING * self.s[0]
        stretch = torch.where(there, first.rsqrt(), 0.0)
        return (
            _times_rows(self.r_b.T @ (self.u[:, :k] * stretch), self.a),
            _times_rows(self.r_a.T @ (self.v[:, :k] * stretch), self.b),
        )


def _times_rows(terms: Tensor, half: Tensor) -> Tensor:
    """`terms^T half`, shape (k, size), float64, `COLUMNS` of the rows widened at a time."""
    out = terms.new_empty(terms.shape[1], half.shape[1])
    for start in range(0, half.shape[1], COLUMNS):
        some = slice(start, start + COLUMNS)
        out[:, some] = terms.T @ half[:, some].double()
    return out


def svd_of_sum(rows: Tensor, d_in: int) -> UpdateSvd:
    """Decomposes the sum of a pool's updates from triangular factors of its halves.

    The matrix that is decomposed has the pool's size, and the dense sum's only where the pool has more
    rows than both sides. Apart from matrices of that size nothing is widened but blocks.

    Args:
        rows: Rows `[a ; b]`, shape (n, d_in + d_out), float32.
        d_in: Length of the `a` half.

    Returns:
        min(n, d_in, d_out) terms, computed in float64.
    """
    a, b = rows[:, :d_in], rows[:, d_in:]
    r_a, r_b = triangular(a), triangular(b)
    u, s, vh = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    return SvdOfRows(None, None, u, s, vh.T, a=a, b=b, r_a=r_a, r_b=r_b)


def triangular(half: Tensor) -> Tensor:
    """R of the columns `half^T = Q R`, Q with orthonormal columns, which is not made.

    It is Cholesky's factor of `half half^T` where rows lean little on one another, as those of adapters
    trained apart: a product of matrices. Else it is Householder's, which keeps the digits of sums that
    nearly cancel. Lengths of rows do not count: they are scaled to 1 before. Of more rows than they are
    wide it is their columns, Q the identity.

    Args:
        half: Shape (n, size), float32.

    Returns:
        Shape (min(n, size), n), float64.
    """
    n, size = half.shape
    if n > size:
        return half.T.double()
    products = gram(half)
    lengths = products.diagonal().sqrt()
    lengths = torch.where(lengths > 0, lengths, 1.0)
    products.div_(lengths[:, None]).div_(lengths)
    lower, failed = torch.linalg.cholesky_ex(products)
    del products
    if not failed:
        eye = torch.eye(n, dtype=lower.dtype, device=half.device)
        inverse = torch.linalg.solve_triangular(lower, eye, upper=False)
        # Of the Frobenius norms, which are no less than the condition number's own.
        if float(torch.linalg.vector_norm(inverse).square()) * n <= MOST_SQUARED:
            found: Tensor = lower.T * lengths
            return found
        del eye, inverse
    del lower
    return _householder(half, lengths) * lengths


def _householder(half: Tensor, lengths: Tensor) -> Tensor:
    """R of the columns of `half^T` at length 1, shape (n, n), float64, some of their rows at a time."""
    n, size = half.shape
    found: Tensor = half.new_zeros(0, n, dtype=torch.float64)
    # Each is factored with what came before it, which takes half as much time more.
    step = max(2 * n, COLUMNS)
    for start in range(0, size, step):
        block = (half[:, start : start + step].double() / lengths[:, None]).T
        found = torch.linalg.qr(torch.cat([found, block]), mode="r").R
    return found


def svd_of_dense(update: Tensor) -> UpdateSvd:
    """Decomposes a dense update, shape (d_out, d_in), float64."""
    u, s, vh = torch.linalg.svd(update, full_matrices=False)
    return UpdateSvd(None, None, u, s, vh.T)


def svd_costs(n: int, d_in: int, d_out: int) -> Costs:
    """What `svd_of_sum` takes of time and memory, on rows that lean on one another too.

    Args:
        n: MSUs.
        d_in: Length of the `a` half.
        d_out: Length of the `b` half.
    """
    sizes = (d_in, d_out)
    m_a, m_b = (min(n, size) for size in sizes)
    factored = [size for size in sizes if n <= size]
    multiplies = sum(n * n * size / 2 for size in factored) + n * m_a * m_b
    multiplies += 20 * m_a * m_b * min(m_a, m_b)  # an SVD
    # One half's factor beside what the other's is made of; or both beside an SVD of their product.
    square = n * n if factored else 0
    held = max(7 * square, 2 * square + 10 * m_a * m_b)
    held += n * sum(size for size in sizes if n > size)  # these are widened
    held += 2 * min(COLUMNS, max(sizes)) * n
    return Costs(multiplies / MATMUL_64 + 4 * n * sum(sizes) * TOUCH, 8 * held)


def bases_costs(n: int, d_in: int, d_out: int) -> Costs:
    """What it takes to find orthonormal bases of both halves as such, and to decompose a core in them.

    Args:
        n: MSUs.
        d_in: Length of the `a` half.
        d_out: Length of the `b` half.
    """
    d, sides = d_in + d_out, (min(n, d_in), min(n, d_out))
    # QR of both halves, and an SVD of about 20 m^3.
    multiplies = n * (sides[0] * d_in + sides[1] * d_out) + 20 * sides[0] * sides[1] * min(sides)
    # Both halves' Q and half as much again, be it what Q is made of or what is made of it; and of each
    # half R, and the SVD's own three.
    wide = 8 * (3 * n * d + 6 * max(sides) ** 2)
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
