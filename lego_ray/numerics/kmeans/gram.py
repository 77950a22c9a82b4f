"""Gram matrices of a pool, and k-means that needs nothing else.

Lloyd's steps in Gram space cost n^2 k a step whatever the width d of the points, and every restart
shares the one n^2 d product. Decisions are taken in float64, so the route changes no label but a tie.
"""

from __future__ import annotations

from dataclasses import dataclass

from lego_ray.lazy import Tensor, torch
from lego_ray.numerics.kmeans.clustering import (
    Clustering,
    best_restart,
    converged,
    fill_empty,
    renumber,
)
from lego_ray.numerics.norms import UpdateComparison

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


def compare_scaled_means(
    halves: GramHalves, labels: Tensor, factors: Tensor, sign: float = 1.0
) -> UpdateComparison:
    """Compares the update of scaled cluster means with the sum of the pool, from inner products alone.

    The same as `lowrank.compare_updates` on rows `factors[c] * mean_c`, except for their rounding to
    float32, and without another pass over the pool.

    Args:
        halves: The pool's inner products.
        labels: Cluster of each MSU, shape (n,), int64, none empty.
        factors: Scale of each cluster's mean, shape (k,), float64.
        sign: Sign of the merged update.
    """
    members = torch.nn.functional.one_hot(labels).double()
    means = members * (factors / members.sum(dim=0))
    cross_a, cross_b = halves.a @ means, halves.b @ means
    return UpdateComparison(
        merged=float(((means.T @ cross_a) * (means.T @ cross_b)).sum()),
        total=halves.squared_norm_of_sum(),
        inner=sign * float((cross_a * cross_b).sum()),
    )


def gram_halves(rows: Tensor, d_in: int) -> GramHalves:
    """Both halves' inner products of a pool.

    Args:
        rows: Shape (n, d_in + d_out), float32.
        d_in: Length of the `a` half.
    """
    return GramHalves(a=gram(rows[:, :d_in]), b=gram(rows[:, d_in:]))


def gram_kmeans(gram: Tensor, seeds: Tensor, max_iter: int, tol: float) -> Clustering:
    """k-means from inner products alone, all restarts side by side; the best is returned.

    Takes the same steps as `kmeans.lloyd` on points with these inner products: the dot product of a
    row with a centroid is the mean of its products with the members.

    Args:
        gram: Shape (n, n), float64.
        seeds: Row indices, shape (n_init, k), int64, no point twice in a row.
        max_iter: Most steps a restart may take, at least 1.
        tol: A restart stops when a step's relative gain in inertia is at most this.
    """
    diagonal = gram.diagonal().contiguous()
    total = float(diagonal.sum())
    n, k = gram.shape[0], seeds.shape[1]
    seeds = seeds.to(gram.device)
    cross = gram[seeds].transpose(1, 2)  # (n_init, n, k): row . centroid
    labels = _nearest(diagonal, cross, diagonal[seeds])
    running = list(range(seeds.shape[0]))
    previous = [torch.inf] * len(running)
    found: dict[int, Clustering] = {}
    for step in range(1, max_iter + 1):
        members = torch.nn.functional.one_hot(labels, k).double()  # (running, n, k)
        counts = members.sum(dim=1)
        stacked = members.transpose(0, 1).reshape(n, -1)
        cross = (gram @ stacked).view(n, -1, k).transpose(0, 1) / counts[:, None, :]
        own = (cross * members).sum(dim=1) / counts
        inertias = (total - (own * counts).sum(dim=1)).clamp(min=0).tolist()
        moved = _nearest(diagonal, cross, own)
        going = []
        for slot, restart in enumerate(running):
            settled = step > 1 and converged(previous[restart], inertias[slot], tol)
            if settled or step == max_iter or torch.equal(moved[slot], labels[slot]):
                found[restart] = Clustering(renumber(labels[slot]), inertias[slot], step)
            else:
                previous[restart] = inertias[slot]
                going.append(slot)
        if not going:
            break
        labels = moved[going]
        running = [running[slot] for slot in going]
    return best_restart([found[restart] for restart in sorted(found)])


def _nearest(diagonal: Tensor, cross: Tensor, own: Tensor) -> Tensor:
    """Labels (n_init, n) from row-centroid products (n_init, n, k) and centroid lengths."""
    scores = own[:, None, :] - 2 * cross
    labels = scores.argmin(dim=2)
    k = own.shape[1]
    for restart in range(labels.shape[0]):
        distances = diagonal + scores[restart].gather(1, labels[restart][:, None])[:, 0]
        labels[restart] = fill_empty(labels[restart], distances, k)
    return labels


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
