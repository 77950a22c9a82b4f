"""Lloyd's k-means over a pool in shards: one algorithm, whether they are here or on a cluster.

Centroids go out, changes of partial sums come back and are folded. Labels are decided in float64 and
sums are exact, so chunks, shards and their order change no bit.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from lego_ray.lazy import Tensor, torch
from lego_ray.numerics.kmeans.clustering import (
    Clustering,
    best_restart,
    converged,
    fill_empty,
    renumber,
)
from lego_ray.numerics.kmeans.partial_sums import PartialSums, chunks, fold, quanta_of
from lego_ray.numerics.kmeans.seeding import SAME_POINT, Distances, gram_distances, kmeans_plus_plus
from lego_ray.numerics.shards import shard as work
from lego_ray.numerics.shards.shard import Shard, Which
from lego_ray.numerics.shards.spread import LocalShards, SpreadPool

# Restarts advance together while their centroids are no more than this: one pass over the points
# serves them all, one answer of a shard stays a few blocks of k x d.
CENTROIDS_AT_ONCE = 64


def seeds_from_sample(
    pool: SpreadPool, sample: Tensor, k: int, n_init: int, generator: torch.Generator
) -> Tensor:
    """Greedy k-means++ over a sample of the pool; see `seeding.kmeans_plus_plus`.

    Args:
        pool: The pool.
        sample: Positions to seed from, in canonical order, shape (m,), int64.
        k: Seeds wanted.
        n_init: Restarts.
        generator: CPU generator; it alone fixes the draws.

    Returns:
        Positions in the pool, shape (n_init, k'), int64.
    """
    chosen = kmeans_plus_plus(_sample_distances(pool, sample), len(sample), k, n_init, generator)
    return sample[chosen]


def _sample_distances(pool: SpreadPool, sample: Tensor) -> Distances:
    """Squared distances between points of a sample, each asked of the shards when it is needed."""
    squared = pool.squared[sample]
    own, back = pool.locate(sample)
    if pool.n_shards == 1:  # which has all pairs, and need not widen its rows once a seed
        return gram_distances(next(pool.shards.map(work.all_products, own=own)))

    def distances(rows: Tensor) -> Tensor:
        flat, where = torch.unique(rows, return_inverse=True)
        targets = pool.take(sample[flat], "points")
        products = torch.cat(list(pool.shards.map(work.products, targets, own=own)), dim=1)
        lengths = squared[flat][:, None] + squared
        gaps = lengths - 2 * products[:, back]
        return torch.where(gaps > SAME_POINT * lengths, gaps, 0.0)[where]

    return distances


@dataclass(slots=True)
class _Restart:
    """A restart on its way.

    Attributes:
        number: Which one.
        centroids: To assign to next, shape (k, d), float64.
        labels: By shard; -1 before the first assignment.
        sums: Of the points by cluster, as labeled.
        inertia: After the last step.
        steps: Taken so far.
    """

    number: int
    centroids: Tensor
    labels: list[Tensor]
    sums: PartialSums
    inertia: float = math.inf
    steps: int = 0

    def goes_on(self, total: float, max_iter: int, tol: float) -> bool:
        """Counts a step that moved points, and makes ready for another unless it was the last."""
        before, self.inertia = self.inertia, max(total - self.sums.explained(), 0.0)
        self.steps += 1
        settled = self.steps > 1 and converged(before, self.inertia, tol)
        self.centroids = self.sums.centroids()
        return self.steps < max_iter and not settled


def lloyd(pool: SpreadPool, seeds: Tensor, max_iter: int, tol: float) -> Clustering:
    """k-means by Lloyd's steps from each row of seeds; the best restart is returned.

    Beside a few numbers a row, this takes the memory of at most three blocks of restarts x k x d
    float64 for the restarts under way: k of them, or `CENTROIDS_AT_ONCE` if that is more.

    Args:
        pool: The pool.
        seeds: Positions, shape (n_init, k), int64, no point twice in a row.
        max_iter: Most steps a restart may take, at least 1.
        tol: A restart stops when a step's relative gain in inertia is at most this.
    """
    n_init, k = seeds.shape
    total = math.fsum(pool.squared.tolist())  # exact, so the same in any order
    quanta = quanta_of(pool_peaks(pool, "points"), pool.n)
    waiting = deque(range(n_init))
    running: list[_Restart] = []
    found: dict[int, Clustering] = {}
    while waiting or running:
        while waiting and len(running) < max(1, CENTROIDS_AT_ONCE // k):
            number = waiting.popleft()
            nowhere = torch.full((pool.n,), -1, dtype=torch.int32)
            start = pool.take(seeds[number], "points").double()
            nothing = PartialSums(torch.zeros_like(start), torch.zeros(k, dtype=torch.float64))
            running.append(_Restart(number, start, pool.split(nowhere), nothing))
        stayed = _assign(pool, running, quanta)
        going = []
        for restart, same in zip(running, stayed, strict=True):
            if not same and restart.goes_on(total, max_iter, tol):
                going.append(restart)
            else:
                labels = renumber(pool.gather(restart.labels).long())
                found[restart.number] = Clustering(labels, restart.inertia, restart.steps)
        running = going
    return best_restart([found[number] for number in range(n_init)])


def _assign(pool: SpreadPool, running: Sequence[_Restart], quanta: Tensor) -> list[bool]:
    """Assigns every restart's points again; says for each whether no label changed."""
    k = running[0].centroids.shape[0]
    before = [torch.stack(parts) for parts in zip(*(r.labels for r in running), strict=True)]
    centroids = torch.stack([r.centroids for r in running])
    answers: list[Tensor] = []
    for labels, changes in pool.shards.map(work.step, centroids, quanta, own=before):
        answers.append(labels)
        for restart, change in zip(running, changes, strict=True):
            restart.sums.add_(change)
    stayed = []
    for number, restart in enumerate(running):
        after = [labels[number] for labels in answers]
        if not bool(restart.sums.counts.all()):
            after = _repair(pool, restart, after, k, quanta)
        stayed.append(all(map(torch.equal, after, restart.labels)))
        restart.labels = after
    return stayed


def _repair(
    pool: SpreadPool, restart: _Restart, labels: list[Tensor], k: int, quanta: Tensor
) -> list[Tensor]:
    """Fills empty clusters; the sums follow."""
    gaps = pool.gather(list(pool.shards.map(work.squared_gaps, restart.centroids, own=labels)))
    filled = pool.split(fill_empty(pool.gather(labels).long(), gaps, k).to(torch.int32))
    own = list(zip(labels, filled, strict=True))
    for change in pool.shards.map(_change, k, quanta, "points", own=own):
        restart.sums.add_(change)
    return filled


def _change(
    shard: Shard, labels: tuple[Tensor, Tensor], k: int, quanta: Tensor, which: Which
) -> PartialSums:
    return work.change(shard, *labels, k, quanta, which)


def cluster_means(pool: SpreadPool, labels: Tensor, which: Which) -> Tensor:
    """Means of the clusters, summed exactly.

    Args:
        pool: The pool.
        labels: In canonical order, shape (n,), int64, no cluster of 0 .. k-1 empty.
        which: Of the rows or of the points.

    Returns:
        Shape (k, d), float64. A cluster of one is that row, to the last bit.
    """
    counts = torch.bincount(labels)
    means = cluster_sums(
        pool, labels, which, quanta_of(pool_peaks(pool, which), pool.n)
    ).centroids()
    alone = (counts[labels] == 1).nonzero()[:, 0]
    for part in chunks(alone.shape[0], CENTROIDS_AT_ONCE):
        rows = alone[part]
        means[labels[rows]] = pool.take(rows, which).double()  # a row needs no grid
    return means


def cluster_sums(pool: SpreadPool, labels: Tensor, which: Which, quanta: Tensor) -> PartialSums:
    """Sums of the clusters, exactly.

    Args:
        pool: The pool.
        labels: As for `cluster_means`.
        which: As for `cluster_means`.
        quanta: The grid, shape (d,), float64.
    """
    own = [(torch.full_like(part, -1), part) for part in pool.split(labels)]
    k = int(labels.max()) + 1
    return fold(pool.shards.map(_change, k, quanta, which, own=own))


def distances_to_means(pool: SpreadPool, labels: Tensor) -> Tensor:
    """Euclidean distance of each point to its cluster's mean.

    Args:
        pool: The pool.
        labels: In canonical order, shape (n,), int64, no cluster empty.

    Returns:
        Shape (n,), float64, in canonical order.
    """
    means = cluster_means(pool, labels, "points")
    gaps = pool.shards.map(work.squared_gaps, means, own=pool.split(labels))
    return pool.gather(list(gaps)).sqrt()


def pool_peaks(pool: SpreadPool, which: Which) -> Tensor:
    """`column_peaks` of a pool in shards, shape (d,), float32.

    Args:
        pool: The pool.
        which: Whether of the rows or of the points that are clustered.
    """
    return torch.stack(list(pool.shards.map(work.peaks, which))).amax(dim=0)


def in_one_shard(shard: Shard) -> SpreadPool:
    """A pool in memory, as the algorithms here see it."""
    return SpreadPool(LocalShards([shard]))
