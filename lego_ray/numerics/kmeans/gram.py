"""Gram matrices of a pool in float64."""

from __future__ import annotations

from dataclasses import dataclass

from lego_ray.lazy import Tensor, torch

# Rows of a diagonal block: large enough for full matmul speed, small enough to skip half the work.
BLOCK = 256
# Columns widened to float64 at a time, so that no float64 copy of a whole pool is made.
COLUMNS = 1024


@dataclass(frozen=True, slots=True)
class GramHalves:
    """Inner products of a pool's MSUs, the halves apart.

    Attributes:
        a: `a_i . a_j`, shape (n, n), float64.
        b: `b_i . b_j`, shape (n, n), float64.
    """

    a: Tensor
    b: Tensor

    def euclidean(self) -> Tensor:
        """`m_i . m_j` of the concatenated MSUs."""
        return self.a + self.b

    def rank_one(self) -> Tensor:
        """`<b_i a_i^T, b_j a_j^T> = (a_i . a_j)(b_i . b_j)`, the Frobenius inner products."""
        return self.a * self.b

    def squared_norm_of_sum(self) -> float:
        """`|| sum_i b_i a_i^T ||_F^2`, exact to float64 rounding, no dense matrix formed."""
        return float(torch.sum(self.a * self.b))


def gram(rows: Tensor) -> Tensor:
    """`rows rows^T` in float64.

    Args:
        rows: Shape (n, d), float32.

    Returns:
        Shape (n, n), float64, exactly symmetric.
    """
    n, d = rows.shape
    out = torch.zeros(n, n, dtype=torch.float64, device=rows.device)
    blocks = [(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]
    for left in range(0, d, COLUMNS):
        wide = rows[:, left : left + COLUMNS].double()
        for start, end in blocks:  # on and below the diagonal
            out[start:end, :end].addmm_(wide[start:end], wide[:end].T)
    for start, end in blocks:
        out[:start, start:end] = out[start:end, :start].T
        corner = out[start:end, start:end]
        corner.copy_(torch.tril(corner) + torch.tril(corner, -1).T)
    return out


def gram_halves(rows: Tensor, d_in: int) -> GramHalves:
    """Both halves' inner products of a pool.

    Args:
        rows: Shape (n, d_in + d_out), float32.
        d_in: Length of the `a` half.
    """
    return GramHalves(a=gram(rows[:, :d_in]), b=gram(rows[:, d_in:]))


def distances_by_products(gram: Tensor, labels: Tensor) -> Tensor:
    """Distance of each point to its cluster's mean, from inner products.

    Args:
        gram: Shape (n, n), float64.
        labels: Shape (n,), int64, no cluster empty.

    Returns:
        Shape (n,), float64; exactly 0 for a point alone in its cluster.
    """
    members = torch.nn.functional.one_hot(labels).double()
    counts = members.sum(dim=0)
    cross = gram @ members / counts
    own = (cross * members).sum(dim=0) / counts
    mine = cross.gather(1, labels[:, None])[:, 0]
    squared = (gram.diagonal() - 2 * mine + own[labels]).clamp(min=0)
    return torch.where(counts[labels] == 1, 0.0, squared).sqrt()
