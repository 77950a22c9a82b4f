"""Lloyd's k-means in MSU space: a map to partial sums, a fold, and an assignment.

Matrix products run in float32; wherever their rounding could decide an assignment, the distances in
question are taken again in float64. Sums are exact. So chunks, shards and their order change no bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lego_ray.errors import ShapeMismatch
from lego_ray.numerics.clustering import (
    Clustering,
    best_restart,
    converged,
    fill_empty,
    renumber,
)
from lego_ray.numerics.msu import squared_norms

# Rows a chunk: a float32 product of this many rows runs at full speed, its float64 copy stays small.
CHUNK = 1024


@dataclass(frozen=True, slots=True)
class PartialSums:
    """Sums of some rows by cluster; partial sums of a pool add up to the pool's in any order.

    Attributes:
        sums: Shape (k, d), float64, each a multiple of the column's quantum.
        counts: Shape (k,), float64.
    """

    sums: Tensor
    counts: Tensor

    def centroids(self) -> Tensor:
        """Means of the clusters, shape (k, d), float64; no cluster may be empty."""
        return self.sums / self.counts[:, None]

    def explained(self) -> float:
        """`sum_c n_c |mu_c|^2`: squared lengths less inertia."""
        return float((self.sums.square().sum(dim=1) / self.counts).sum())


def column_quanta(points: Tensor) -> Tensor:
    """Grid on which a pool's column sums are exact in float64.

    With values rounded to multiples of `q = 2^(ceil(log2 max|x|) + ceil(log2 n) - 52)`, no sum of
    n of them needs more than float64's 53 bits, so addition is associative (the one-fold case of
    Demmel and Nguyen, "Fast Reproducible Floating-Point Summation", 2013). The rounding is 2^-43 of
    the column's largest value at n = 1,024: far below float32's own.

    Args:
        points: Shape (n, d), float32.

    Returns:
        Shape (d,), float64, powers of two (1 for a column of zeros).
    """
    peak = torch.zeros(points.shape[1], device=points.device)
    for rows in _chunks(points.shape[0]):
        peak = torch.maximum(peak, points[rows].abs().amax(dim=0))
    peak = peak.double()
    exponent = torch.frexp(peak).exponent + (max(points.shape[0] - 1, 1)).bit_length() - 52
    return torch.where(peak > 0, torch.ldexp(torch.ones_like(peak), exponent), 1.0)


def partial_sums(points: Tensor, labels: Tensor, k: int, quanta: Tensor) -> PartialSums:
    """Sums one chunk's points by cluster, exactly.

    Args:
        points: MSU rows, shape (n, d), float32.
        labels: Cluster of each row, shape (n,), int64, below k.
        k: Number of clusters.
        quanta: The whole pool's `column_quanta`, shape (d,), float64.

    Returns:
        The chunk's sums and counts.

    Raises:
        ShapeMismatch: If the widths d differ, or labels is not (n,).
    """
    if points.shape[1:] != quanta.shape or labels.shape != points.shape[:1]:
        raise ShapeMismatch(
            "partial_sums",
            f"points {tuple(points.shape)}, labels {tuple(labels.shape)} and quanta "
            f"{tuple(quanta.shape)} do not fit together",
        )
    sums = torch.zeros(k, points.shape[1], dtype=torch.float64, device=points.device)
    # Adding 1.5 * 2^52 quanta and taking them away leaves a value rounded to a multiple of one.
    lift = 1.5 * 2.0**52 * quanta
    for rows in _chunks(points.shape[0]):
        on_grid = points[rows].double().add_(lift).sub_(lift)
        sums.index_add_(0, labels[rows], on_grid)
    return PartialSums(sums=sums, counts=torch.bincount(labels, minlength=k).double())


def fold(parts: Iterable[PartialSums]) -> PartialSums:
    """Adds partial sums; their order is free, because each addition is exact."""
    total: PartialSums | None = None
    for part in parts:
        if total is None:
            total = PartialSums(part.sums.clone(), part.counts.clone())
        else:
            total.sums.add_(part.sums)
            total.counts.add_(part.counts)
    if total is None:
        raise ShapeMismatch("fold", "no partial sums were given")
    return total


def assign(points: Tensor, lengths: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest centroid of each point, ties to the lowest index.

    Args:
        points: Shape (n, d), float32.
        lengths: Their `squared_norms`, shape (n,), float64.
        centroids: Shape (k, d), float64.

    Returns:
        labels (n,) int64, and squared distances (n,) float64, never negative.
    """
    n, d = points.shape
    narrow = centroids.float()
    own = centroids.square().sum(dim=1)
    reach = float(own.max().sqrt())
    labels = torch.empty(n, dtype=torch.int64, device=points.device)
    nearest = torch.empty(n, dtype=torch.float64, device=points.device)
    for rows in _chunks(n):
        scores = own - 2 * (points[rows] @ narrow.T).double()
        # Twice the worst rounding of a float32 dot product of length d, on both sides of a comparison;
        # one more d for the rounding of the centroids.
        slack = 4 * (d + 2) * 2.0**-24 * lengths[rows].sqrt() * reach
        close = scores <= (scores.amin(dim=1) + slack)[:, None]
        row, centroid = close.nonzero(as_tuple=True)
        refined = torch.full_like(scores, torch.inf)
        refined[row, centroid] = _squared_distances(points[rows], centroids, row, centroid)
        labels[rows] = refined.argmin(dim=1)
        nearest[rows] = refined.amin(dim=1)
    return labels, nearest


def lloyd(points: Tensor, seeds: Tensor, max_iter: int, tol: float) -> Clustering:
    """k-means by Lloyd's steps from each row of seeds; the best restart is returned.

    Args:
        points: Shape (n, d), float32.
        seeds: Row indices, shape (n_init, k), int64, no point twice in a row.
        max_iter: Most steps a restart may take, at least 1.
        tol: A restart stops when a step's relative gain in inertia is at most this.
    """
    lengths = squared_norms(points)
    total = float(lengths.sum())
    quanta = column_quanta(points)
    k = seeds.shape[1]
    found = []
    for chosen in seeds:
        labels, distances = assign(points, lengths, points[chosen].double())
        labels = fill_empty(labels, distances, k)
        previous = torch.inf
        for step in range(1, max_iter + 1):
            sums = partial_sums(points, labels, k, quanta)
            inertia = max(total - sums.explained(), 0.0)
            if step == max_iter or (step > 1 and converged(previous, inertia, tol)):
                break
            previous = inertia
            moved, distances = assign(points, lengths, sums.centroids())
            moved = fill_empty(moved, distances, k)
            if torch.equal(moved, labels):
                break
            labels = moved
        found.append(Clustering(renumber(labels), inertia, step))
    return best_restart(found)


def _chunks(n: int) -> Iterator[slice]:
    for start in range(0, n, CHUNK):
        yield slice(start, min(start + CHUNK, n))


def _squared_distances(points: Tensor, centroids: Tensor, row: Tensor, centroid: Tensor) -> Tensor:
    """Squared distances of chosen (row, centroid) pairs, by differences in float64."""
    out = torch.empty(row.shape[0], dtype=torch.float64, device=points.device)
    for pairs in _chunks(row.shape[0]):
        gaps = points[row[pairs]].double() - centroids[centroid[pairs]]
        out[pairs] = gaps.square_().sum(dim=1)
    return out


def centroids_of(points: Tensor, labels: Tensor) -> Tensor:
    """Means of the clusters, summed exactly.

    Args:
        points: Shape (n, d), float32.
        labels: Shape (n,), int64, no cluster of 0 .. k-1 empty.

    Returns:
        Shape (k, d), float64. A cluster of one is that row, to the last bit.
    """
    k = int(labels.max()) + 1
    means = partial_sums(points, labels, k, column_quanta(points)).centroids()
    alone = (torch.bincount(labels)[labels] == 1).nonzero()[:, 0]
    means[labels[alone]] = points[alone].double()  # a row needs no grid
    return means


def distances_to_centroids(points: Tensor, labels: Tensor, centroids: Tensor) -> Tensor:
    """Euclidean distance of each row to its cluster's centroid, by differences.

    Args:
        points: Shape (n, d), float32.
        labels: Shape (n,), int64.
        centroids: Shape (k, d), float64.

    Returns:
        Shape (n,), float64.
    """
    out = torch.empty(points.shape[0], dtype=torch.float64, device=points.device)
    for rows in _chunks(points.shape[0]):
        out[rows] = (points[rows].double() - centroids[labels[rows]]).square().sum(dim=1).sqrt()
    return out
