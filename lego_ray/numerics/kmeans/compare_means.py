"""Scaled means of clusters against the sum of a pool's updates, by rounded inner products.

With each MSU as its cluster's mean and the rest, the sum S is that of the means, M, and that of the
rests, R: `||S||^2 = 2 <M, S> - ||M||^2 + ||R||^2`. The first two need only products with k means. Of R,
lengths are known in float64, and only the products between different MSUs are of rounded rows, whose
errors have no sign in common.
"""

from __future__ import annotations

from dataclasses import dataclass

from lego_ray.lazy import Tensor, torch
from lego_ray.numerics.kmeans.partial_sums import chunks
from lego_ray.numerics.kmeans.rough import BLOCK, RoughHalves
from lego_ray.numerics.norms import UpdateComparison
from lego_ray.numerics.shards import shard as work
from lego_ray.numerics.shards.spread import SpreadPool

# The rounding is about 1e-5 of the squared norm. An error or a sum that is smaller than this share of
# what it is a difference of is computed again in float64.
LEAST_SHARE = 1e-3


@dataclass(frozen=True, slots=True)
class ClusterParts:
    """What `shard.cluster_parts` gives of a whole pool.

    Attributes:
        inner: `<b_c a_c^T, S>` of each mean, shape (k,), float64.
        apart: Squared distances of the halves of each MSU to its mean's, shape (2, n), float64.
        whole: Squared lengths of the halves of each MSU, shape (2, n), float64.
    """

    inner: Tensor
    apart: Tensor
    whole: Tensor


def cluster_parts(pool: SpreadPool, labels: Tensor, means: Tensor) -> ClusterParts:
    """`shard.cluster_parts` of a whole pool.

    Args:
        pool: The pool.
        labels: Cluster of each MSU in canonical order, shape (n,), int64, none empty.
        means: Means of the clusters, shape (k, d), float64.
    """
    found = list(pool.shards.map(work.cluster_parts, means, own=pool.split(labels)))
    return ClusterParts(
        torch.stack([part[0] for part in found]).sum(dim=0),
        pool.gather([part[1] for part in found]),
        pool.gather([part[2] for part in found]),
    )


def compare_scaled_means(
    rough: RoughHalves,
    parts: ClusterParts,
    labels: Tensor,
    means: Tensor,
    d_in: int,
    factors: Tensor,
    sign: float,
) -> UpdateComparison | None:
    """Compares the update of scaled cluster means with the sum of the pool.

    The same as `norms.compare_updates` on rows `factors[c] * mean_c`, except for their rounding to
    float32 and that of `rough`.

    Args:
        rough: Products of the pool's MSUs.
        parts: The pool's, in the same order.
        labels: Cluster of each MSU, shape (n,), int64, none empty.
        means: Shape (k, d), float64.
        d_in: Length of the `a` half.
        factors: Scale of each cluster's mean, shape (k,), float64.
        sign: Sign of the merged update.

    Returns:
        None if the rounding could show in the result.
    """
    counts = torch.bincount(labels).double()
    a, b = means[:, :d_in], means[:, d_in:]
    between = (a @ a.T) * (b @ b.T)
    squares = factors.square()
    merged = float(squares @ between @ squares)
    inner = sign * float(squares @ parts.inner)
    of_means = 2 * float(counts @ parts.inner) - float(counts @ between @ counts)
    total = of_means + _squared_norm_of_rests(rough, parts, labels, counts)
    found = UpdateComparison(merged=merged, total=total, inner=inner)
    one_by_one = float((parts.whole[0] * parts.whole[1]).sum())
    if total < LEAST_SHARE * one_by_one or found.squared_error() < LEAST_SHARE * max(merged, total):
        return None
    return found


def _squared_norm_of_rests(
    rough: RoughHalves, parts: ClusterParts, labels: Tensor, counts: Tensor
) -> float:
    """`||R||_F^2`. With H = 1 - P taking means away, it is `tr(A H B H)` of the products A and B."""
    k, n = len(counts), len(labels)
    # Of the products with the rows of each cluster.
    sums = torch.zeros(2, k, n, dtype=torch.float64)
    diagonals = torch.empty(2, n, dtype=torch.float64)
    products = 0.0
    for rows in chunks(n, BLOCK):
        halves = rough.wide(rows)
        for which, half in enumerate(halves):
            sums[which].index_add_(0, labels[rows], half)
            diagonals[which, rows] = half.diagonal(rows.start)
        products += float((halves[0] * halves[1]).sum())
    crossed = float((sums[0] * sums[1] / counts[:, None]).sum())
    pairs = torch.zeros(2, k, k, dtype=torch.float64).index_add_(2, labels, sums)
    both = float((pairs[0] * pairs[1] / counts[:, None] / counts).sum())
    mine = sums[:, labels, torch.arange(n)] / counts[labels]
    own = torch.diagonal(pairs, dim1=1, dim2=2)[:, labels] / counts[labels].square()
    rests = diagonals - 2 * mine + own
    return (
        products
        - 2 * crossed
        + both
        + float((parts.apart[0] * parts.apart[1] - rests[0] * rests[1]).sum())
    )
