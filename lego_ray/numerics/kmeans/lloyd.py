"""k-means over a pool in shards: one algorithm, whether they are here or on a cluster.

Many starts are tried on a sample of the rows, by inner products alone; the best is finished on all rows.
Centroids go out, changes of partial sums come back and are folded. Labels are decided in float64 and
sums are exact, so chunks, shards and their order change no bit.
"""

from __future__ import annotations

import math
from dataclasses import replace

from lego_ray.lazy import Tensor, torch
from lego_ray.numerics.costs import sample_rows
from lego_ray.numerics.kmeans.clustering import (
    Clustering,
    converged,
    fill_empty,
    renumber,
)
from lego_ray.numerics.kmeans.partial_sums import PartialSums, chunks, fold, quanta_of
from lego_ray.numerics.kmeans.rough import RoughHalves, in_units
from lego_ray.numerics.kmeans.search import search
from lego_ray.numerics.shards import shard as work
from lego_ray.numerics.shards.shard import Shard, Which
from lego_ray.numerics.shards.spread import LocalShards, SpreadPool

# Rows that are in memory at a time here, of those that shards are asked for.
ROWS_AT_ONCE = 64
# A search by rounded products is done again by float64 ones if its inertia is below this many times the
# squared rounding: the rows of a cluster are then too alike for 12 bits.
LEAST_INERTIA = 16.0


def cluster(
    pool: SpreadPool, k: int, n_init: int, generator: torch.Generator, max_iter: int, tol: float
) -> tuple[Clustering, PartialSums, RoughHalves]:
    """Clusters a pool: starts are tried on a sample of its points, the best is finished on all of them.

    Args:
        pool: The pool, of more than k points.
        k: Clusters wanted.
        n_init: Starts.
        generator: CPU generator; it alone fixes the draws.
        max_iter: Most steps of a start, and of the finish, at least 1.
        tol: Each stops when a step's relative gain in inertia is at most this.

    Returns:
        The clusters, the exact sums of their points, and the products of the sample's rounded rows.
    """
    sample = _sample(pool.n, k, generator)
    start, rough = search_sample(pool, sample, k, n_init, generator, max_iter, tol)
    labels = torch.full((pool.n,), -1)
    labels[sample] = start.labels
    found, sums = lloyd(pool, labels, max_iter, tol)
    return replace(found, iterations=start.iterations + found.iterations), sums, rough


def _sample(n: int, k: int, generator: torch.Generator) -> Tensor:
    """Points to search on, in order, shape (m,), int64. The same for every route."""
    size = sample_rows(n, k)
    if n <= size:
        return torch.arange(n)
    return torch.randperm(n, generator=generator)[:size].sort().values


def search_sample(
    pool: SpreadPool,
    sample: Tensor,
    k: int,
    n_init: int,
    generator: torch.Generator,
    max_iter: int,
    tol: float,
) -> tuple[Clustering, RoughHalves]:
    """Clusters a sample of the pool by inner products of its points; see `search`.

    Products are of rounded rows, see `rough`, unless a cluster's rows are too alike for that.

    Args:
        pool: The pool.
        sample: Positions, in canonical order, shape (m,), int64.
        k: Clusters wanted.
        n_init: Starts.
        generator: CPU generator; it alone fixes the draws.
        max_iter: Most steps a start may take, at least 1.
        tol: A start stops when a step's relative gain in inertia is at most this.

    Returns:
        The clusters, the labels of shape (m,), and the rounded products.
    """
    state = generator.get_state()
    rough = rough_products(pool, sample)
    found = search(rough.products(), k, n_init, generator, max_iter, tol)
    noise = rough.noise(pool.d_in, pool.width - pool.d_in)
    if found.k < k or found.inertia < LEAST_INERTIA * noise:
        generator.set_state(state)
        found = search(wide_products(pool, sample), k, n_init, generator, max_iter, tol)
    return found, rough


def rough_products(pool: SpreadPool, sample: Tensor, which: Which = "points") -> RoughHalves:
    """`rough_halves` of a sample's points or rows.

    Args:
        pool: The pool.
        sample: Positions, in the order wanted, shape (m,), int64.
        which: Points, which are clustered, or rows.

    Returns:
        The products, on the CPU.
    """
    own, back = pool.locate(sample)
    if pool.n_shards == 1:
        return next(pool.shards.map(work.rough_products, which, own=[own[0][back]]))
    m = len(sample)
    a, b = torch.empty(m, m), torch.empty(m, m)
    units = torch.empty(2, m, dtype=torch.float64)
    for rows in chunks(m):
        targets = pool.take(sample[rows], which)
        halves = [in_units(half) for half in (targets[:, : pool.d_in], targets[:, pool.d_in :])]
        units[0, rows], units[1, rows] = halves[0][1], halves[1][1]
        parts = list(
            pool.shards.map(work.rough_against, halves[0][0], halves[1][0], which, own=own)
        )
        a[rows] = torch.cat([part[0] for part in parts], dim=1)[:, back]
        b[rows] = torch.cat([part[1] for part in parts], dim=1)[:, back]
    return RoughHalves(a, b, units[0], units[1])


def wide_products(pool: SpreadPool, sample: Tensor) -> Tensor:
    """Inner products of the points of a sample.

    Args:
        pool: The pool.
        sample: Positions, in the order wanted, shape (m,), int64.

    Returns:
        Shape (m, m), float64, on the CPU.
    """
    own, back = pool.locate(sample)
    if pool.n_shards == 1:
        return next(pool.shards.map(work.all_products, own=[own[0][back]]))
    out = torch.empty(len(sample), len(sample), dtype=torch.float64)
    for rows in chunks(len(sample)):
        targets = pool.take(sample[rows], "points")
        parts = list(pool.shards.map(work.products, targets, own=own))
        out[rows] = torch.cat(parts, dim=1)[:, back]
    return out


def lloyd(
    pool: SpreadPool, labels: Tensor, max_iter: int, tol: float
) -> tuple[Clustering, PartialSums]:
    """k-means by Lloyd's steps from a partition of some rows.

    Beside a few numbers a row, this takes the memory of a few blocks of k x d float64.

    Args:
        pool: The pool.
        labels: Cluster of each row to start from, in canonical order, shape (n,), int64, -1 for none; no
            cluster is empty.
        max_iter: Most steps, at least 1.
        tol: Stops when a step's relative gain in inertia is at most this.

    Returns:
        The partition of all rows, and the exact sums of its clusters' points.
    """
    k = int(labels.max()) + 1
    total = math.fsum(pool.squared.tolist())  # exact, so the same in any order
    quanta = quanta_of(pool_peaks(pool, "points"), pool.n)
    now = pool.split(labels.to(torch.int32))
    own = [(torch.full_like(part, -1), part) for part in now]
    sums = fold(pool.shards.map(_change, k, quanta, "points", own=own))
    inertia = math.inf if bool((labels < 0).any()) else max(total - sums.explained(), 0.0)
    steps = 0
    while steps < max_iter:
        steps += 1
        after = _assign(pool, now, sums, quanta)
        if all(map(torch.equal, after, now)):
            break
        now, before = after, inertia
        inertia = max(total - sums.explained(), 0.0)
        if before < math.inf and converged(before, inertia, tol):
            break
    found = pool.gather(now).long()
    numbered = renumber(found)
    order = torch.empty(k, dtype=torch.int64)
    order[numbered] = found
    return (
        Clustering(numbered, inertia, steps),
        PartialSums(sums.sums[order], sums.counts[order]),
    )


def _assign(
    pool: SpreadPool, before: list[Tensor], sums: PartialSums, quanta: Tensor
) -> list[Tensor]:
    """Assigns the points again, by shard; the sums follow."""
    centroids = sums.centroids()
    after = []
    for labels, [change] in pool.shards.map(
        work.step, centroids[None], quanta, own=[part[None] for part in before]
    ):
        after.append(labels[0])
        sums.add_(change)
    if not bool(sums.counts.all()):
        return _repair(pool, centroids, sums, after, quanta)
    return after


def _repair(
    pool: SpreadPool, centroids: Tensor, sums: PartialSums, labels: list[Tensor], quanta: Tensor
) -> list[Tensor]:
    """Fills empty clusters; the sums follow."""
    k = len(centroids)
    gaps = pool.gather(list(pool.shards.map(work.squared_gaps, centroids, own=labels)))
    filled = pool.split(fill_empty(pool.gather(labels).long(), gaps, k).to(torch.int32))
    own = list(zip(labels, filled, strict=True))
    for change in pool.shards.map(_change, k, quanta, "points", own=own):
        sums.add_(change)
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
    sums = cluster_sums(pool, labels, which, quanta_of(pool_peaks(pool, which), pool.n))
    return means_of(pool, labels, which, sums)


def means_of(pool: SpreadPool, labels: Tensor, which: Which, sums: PartialSums) -> Tensor:
    """Means of the clusters, from their sums.

    Args:
        pool: The pool.
        labels: As for `cluster_means`.
        which: As for `cluster_means`.
        sums: Their `cluster_sums`.

    Returns:
        Shape (k, d), float64. A cluster of one is that row, to the last bit.
    """
    means = sums.centroids()
    alone = (sums.counts[labels] == 1).nonzero()[:, 0]
    for part in chunks(alone.shape[0], ROWS_AT_ONCE):
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


def distances_to_means(pool: SpreadPool, labels: Tensor, means: Tensor) -> Tensor:
    """Euclidean distance of each point to its cluster's mean.

    Args:
        pool: The pool.
        labels: In canonical order, shape (n,), int64, no cluster empty.
        means: `cluster_means` of the points, shape (k, d), float64.

    Returns:
        Shape (n,), float64, in canonical order.
    """
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
