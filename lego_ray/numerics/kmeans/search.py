"""k-means that needs nothing but inner products: many starts, then an exchange of single rows.

A step costs the products of the rows that move, `n` each, whatever the width of the rows and the number
of clusters. All of it runs on the CPU in one fixed order, so that equal products give equal labels
everywhere.
"""

from __future__ import annotations

import math

from lego_ray.lazy import Tensor, torch
from lego_ray.numerics.kmeans.clustering import (
    Clustering,
    best_restart,
    converged,
    fill_empty,
    renumber,
)
from lego_ray.numerics.kmeans.seeding import gram_distances, kmeans_plus_plus

# A gain below this share of the mean squared length of a row is rounding.
LEAST_GAIN = 1e-12


class _Partition:
    """A partition of rows that are known by their inner products.

    Args:
        products: Shape (n, n), float64.
        labels: Cluster of each row, shape (n,), int64.
        k: Number of clusters, none of them empty.
    """

    def __init__(self, products: Tensor, labels: Tensor, k: int) -> None:
        self._products = products
        self._lengths = products.diagonal().contiguous()
        self.total = math.fsum(self._lengths.tolist())
        self._k = k
        # Product of each row with the sum of each cluster, shape (k, n).
        self._sums = torch.zeros(k, len(labels), dtype=torch.float64).index_add_(
            0, labels, products
        )
        self._take(labels)

    def move(self, labels: Tensor) -> bool:
        """Takes other labels; says whether a row moved."""
        moved = (labels != self.labels).nonzero()[:, 0]
        if not moved.numel():
            return False
        if 3 * moved.numel() > len(labels):
            self._sums.zero_().index_add_(0, labels, self._products)
        else:
            self._add(moved, labels[moved])
        self._take(labels)
        return True

    def _add(self, rows: Tensor, to: Tensor) -> None:
        """Has the sums follow rows that go to other clusters."""
        products = self._products[rows]
        self._sums.index_add_(0, to, products)
        self._sums.index_add_(0, self.labels[rows], products, alpha=-1)

    def _take(self, labels: Tensor) -> None:
        """Takes labels that the sums are of, and computes what follows from both."""
        self.labels = labels
        self.counts = torch.bincount(labels, minlength=self._k).double()
        self._mine = self._sums.gather(0, labels[None])[0]
        own = torch.bincount(labels, self._mine, minlength=self._k)
        explained = math.fsum((own / self.counts).tolist())
        self.inertia = max(self.total - explained, 0.0)
        self._squared = own / self.counts.square()

    def distances(self) -> Tensor:
        """Squared distance of each row to each mean, shape (k, n), float64; may be rounded below 0."""
        return self._distances(torch.ones_like(self.counts))

    def _distances(self, factors: Tensor) -> Tensor:
        """`distances` times a factor for each cluster, shape (k,)."""
        found = torch.addcmul((factors * self._squared)[:, None], factors[:, None], self._lengths)
        return found.addcmul_(self._sums, (factors / self.counts)[:, None], value=-2)

    def exchange(self) -> tuple[Tensor, Tensor]:
        """Rows that lower the inertia by moving alone, the largest gain first.

        Taking a row at squared distance D from a cluster of m lowers its inertia by `m / (m - 1) D`, and
        giving it to one adds `m / (m + 1) D` (Hartigan and Wong, 1979). Lloyd's rule leaves out both
        factors, and so holds rows back in the clusters that they are a part of.

        Returns:
            The rows, shape (m,), int64, and where each goes, shape (m,), int64.
        """
        counts, labels = self.counts, self.labels
        # Of a cluster of one row, which stays.
        leaving = torch.where(counts > 1, counts / (counts - 1), 0.0)
        mine = self._lengths + self._squared[labels] - 2 * self._mine / counts[labels]
        left = mine.mul_(leaving[labels])
        added = self._distances(counts / (counts + 1)).scatter_(0, labels[None], torch.inf)
        gains = left - added.amin(dim=0)
        rows = (gains > LEAST_GAIN * self.total / len(labels)).nonzero()[:, 0]
        rows = rows[torch.argsort(gains[rows], descending=True, stable=True)]
        return rows, added[:, rows].min(dim=0).indices

    def try_move(self, rows: Tensor, to: Tensor) -> bool:
        """Moves rows if that lowers the inertia and empties no cluster; says whether it did."""
        labels = self.labels.clone()
        labels[rows] = to
        if not bool(torch.bincount(labels, minlength=self._k).all()):
            return False
        before, old, sums = self.inertia, self.labels, self._sums.clone()
        self._add(rows, to)
        self._take(labels)
        if self.inertia < before:
            return True
        self._sums = sums
        self._take(old)
        return False


def search(
    products: Tensor, k: int, n_init: int, generator: torch.Generator, max_iter: int, tol: float
) -> Clustering:
    """k-means by Lloyd's steps from several starts; the best of them is improved row by row.

    Args:
        products: Inner products of the rows, shape (n, n), float64, on the CPU.
        k: Clusters wanted.
        n_init: Starts, each by greedy k-means++.
        generator: CPU generator; it alone fixes the draws.
        max_iter: Most steps of a start, and most rounds of exchanges, at least 1.
        tol: A start stops when a step's relative gain in inertia is at most this.

    Returns:
        The partition, of k clusters or as many as there are distinct rows.
    """
    n = products.shape[0]
    seeds = kmeans_plus_plus(gram_distances(products), n, k, n_init, generator)
    best = best_restart([_lloyd(products, each, max_iter, tol) for each in seeds])
    partition = _Partition(products, best.labels, seeds.shape[1])
    steps = best.iterations + _exchange(partition, max_iter, tol)
    return Clustering(renumber(partition.labels), partition.inertia, steps)


def _lloyd(products: Tensor, seeds: Tensor, max_iter: int, tol: float) -> Clustering:
    k, lengths = len(seeds), products.diagonal()
    scores = products[seeds].mul_(-2).add_(lengths[seeds, None])
    partition = _Partition(products, _nearest(scores.add_(lengths), k), k)
    steps = 1
    while steps < max_iter:
        before = partition.inertia
        if not partition.move(_nearest(partition.distances(), k)):
            break
        steps += 1
        if converged(before, partition.inertia, tol):
            break
    return Clustering(partition.labels, partition.inertia, steps)


def _nearest(distances: Tensor, k: int) -> Tensor:
    least, labels = distances.min(dim=0)
    return fill_empty(labels, least, k)


def _exchange(partition: _Partition, max_iter: int, tol: float) -> int:
    """Moves rows as long as that lowers the inertia; returns the rounds that it took.

    Rows move together as long as that lowers it, else fewer of them. One that moves alone always does.
    """
    share, rounds = 1.0, 0
    while rounds < max_iter:
        rows, to = partition.exchange()
        if not rows.numel():
            break
        before, count = partition.inertia, max(1, int(share * rows.numel()))
        while not partition.try_move(rows[:count], to[:count]):
            if count == 1:
                return rounds
            count = max(1, count // 4)
            share = count / rows.numel()
        rounds += 1
        share = min(1.0, 1.5 * share)
        if (before - partition.inertia) * rows.numel() <= tol * before * count:
            break
    return rounds
