"""What one shard of a pool computes: plain functions of a shard, which any process may run.

A shard remembers nothing between calls, so one that is lost and read again answers with the same bits.
Arguments come from the CPU and answers go back to it, wherever the shard's rows are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lego_ray.lazy import Tensor, torch
from lego_ray.numerics.kmeans.assign import assign, distances_to_own
from lego_ray.numerics.kmeans.gram import gram
from lego_ray.numerics.kmeans.partial_sums import (
    CHUNK,
    PartialSums,
    chunks,
    column_peaks,
    moved_sums,
)
from lego_ray.numerics.kmeans.reweight import ParameterNorm, row_norms
from lego_ray.numerics.kmeans.rough import RoughHalves, in_units, rough_halves
from lego_ray.numerics.msu import digests, squared_norms
from lego_ray.numerics.norms import inner_product, update_block
from lego_ray.numerics.pool import Pool

# Columns widened to float64 at a time.
COLUMNS = 1024
# The MSUs themselves, or what stands for them in k-means: the same unless they are normalized.
Which = Literal["rows", "points"]


@dataclass(frozen=True, slots=True)
class Shard:
    """Some adapters' part of a site's pool.

    Attributes:
        pool: The MSUs.
        points: What k-means compares, shape (n, d), float32; `pool.rows` itself if that.
        squared: Squared lengths of the points, shape (n,), float64.
    """

    pool: Pool
    points: Tensor
    squared: Tensor

    @classmethod
    def of(cls, pool: Pool, points: Tensor | None = None) -> Shard:
        """A shard of a part of a pool.

        Args:
            pool: The part.
            points: What is clustered, shape (n, d'), float32; the rows, unless given.
        """
        points = pool.rows if points is None else points
        return cls(pool, points, squared_norms(points))

    def select(self, which: Which) -> Tensor:
        """The rows or the points."""
        return self.pool.rows if which == "rows" else self.points


@dataclass(frozen=True, slots=True)
class ShardFacts:
    """What a pool's owner keeps of each shard: a few numbers a row, never the rows.

    Attributes:
        d_in: Length of the `a` half.
        width: d.
        adapters: Shape (n,), int64.
        ranks: Shape (n,), int64.
        lengths: Of the rows, shape (n,), float32.
        squared: Squared lengths of the points, shape (n,), float64.
    """

    d_in: int
    width: int
    adapters: Tensor
    ranks: Tensor
    lengths: Tensor
    squared: Tensor


def facts(shard: Shard) -> ShardFacts:
    """Describes a shard."""
    pool = shard.pool
    return ShardFacts(
        pool.d_in,
        pool.rows.shape[1],
        pool.adapters,
        pool.ranks,
        pool.lengths.cpu(),
        shard.squared.cpu(),
    )


def row_digests(shard: Shard, at: Tensor) -> list[bytes]:
    """`digests` of the rows at some positions.

    Args:
        shard: The shard.
        at: Positions in it, shape (m,), int64.
    """
    return digests(shard.pool.rows[at.to(shard.pool.rows.device)])


def take(shard: Shard, at: Tensor, which: Which) -> Tensor:
    """The rows or points at some positions, shape (m, d), float32.

    Args:
        shard: The shard.
        at: Positions in it, shape (m,), int64.
        which: Whether rows or points.
    """
    values = shard.select(which)
    return values[at.to(values.device)].cpu()


def peaks(shard: Shard, which: Which) -> Tensor:
    """`column_peaks`, shape (d,), float32.

    Args:
        shard: The shard.
        which: Whether of its rows or its points.
    """
    return column_peaks(shard.select(which)).cpu()


def products(shard: Shard, at: Tensor, targets: Tensor) -> Tensor:
    """Inner products in float64 of the points at some positions with targets.

    Args:
        shard: The shard.
        at: Positions, shape (m,), int64.
        targets: Shape (t, d), float32.

    Returns:
        Shape (t, m), float64.
    """
    here = shard.points.device
    at, targets = at.to(here), targets.to(here)
    out = torch.zeros(targets.shape[0], at.shape[0], dtype=torch.float64, device=here)
    for left in range(0, targets.shape[1], COLUMNS):
        block = shard.points[:, left : left + COLUMNS][at].double()
        out.addmm_(targets[:, left : left + COLUMNS].double(), block.T)
    return out.cpu()


def step(
    shard: Shard, before: Tensor, centroids: Tensor, quanta: Tensor
) -> tuple[Tensor, list[PartialSums]]:
    """One step of k-means: assigns the points again and says what that changes in the sums.

    Args:
        shard: The shard.
        before: Labels the sums hold so far, shape (restarts, n), int32; -1 for none.
        centroids: Shape (restarts, k, d), float64.
        quanta: The pool's grid, shape (d,), float64.

    Returns:
        Labels, shape (restarts, n), int32, and the change of the sums for each restart.
    """
    here = shard.points.device
    labels = assign(shard.points, shard.squared, centroids.to(here)).to(torch.int32)
    changes = [
        _moved(shard.points, was, now, centroids.shape[1], quanta)
        for was, now in zip(before.to(here), labels, strict=True)
    ]
    return labels.cpu(), changes


def change(
    shard: Shard, before: Tensor, after: Tensor, k: int, quanta: Tensor, which: Which
) -> PartialSums:
    """What a change of labels adds to the sums of rows or points.

    Args:
        shard: The shard.
        before: Shape (n,), integers; -1 for none.
        after: Shape (n,), integers below k.
        k: Number of clusters.
        quanta: The pool's grid, shape (d,), float64.
        which: Whose sums.
    """
    return _moved(shard.select(which), before, after, k, quanta)


def squared_gaps(shard: Shard, labels: Tensor, centroids: Tensor) -> Tensor:
    """Squared distance of each point to its own centroid, shape (n,), float64.

    Args:
        shard: The shard.
        labels: Cluster of each of its points, shape (n,), int64.
        centroids: Shape (k, d), float32.
    """
    here = shard.points.device
    return distances_to_own(shard.points, labels.to(here), centroids.to(here)).cpu()


def norms(shard: Shard, norm: ParameterNorm) -> Tensor:
    """`row_norms` of the MSUs, shape (n,), float64.

    Args:
        shard: The shard.
        norm: Which norm.
    """
    return row_norms(shard.pool.rows, norm).cpu()


def inner(shard: Shard, merged: Tensor) -> float:
    """`<W, S>` of a merged update with the sum of the shard's MSUs, in squared parameter units.

    Args:
        shard: The shard.
        merged: Rows of W, shape (k, d).
    """
    rows = shard.pool.rows
    return inner_product(merged.to(rows.device), rows, shard.pool.d_in)


def dense_block(shard: Shard, start: int, end: int, kind: torch.dtype) -> Tensor:
    """`update_block` of the shard's MSUs, shape (end - start, d_in), float64.

    Args:
        shard: The shard.
        start: First row of the block, in d_out.
        end: One past its last.
        kind: Element type of the products, float32 or float64.
    """
    return update_block(shard.pool.rows, shard.pool.d_in, start, end, kind).cpu()


def rough_products(shard: Shard, at: Tensor, which: Which) -> RoughHalves:
    """`rough_halves` of the rows or points at some positions.

    Args:
        shard: The shard.
        at: Positions in it, shape (m,), int64.
        which: Whether rows or points.
    """
    values = shard.select(which)
    return rough_halves(values, shard.pool.d_in, at.to(values.device))


def rough_against(
    shard: Shard, at: Tensor, a: Tensor, b: Tensor, which: Which
) -> tuple[Tensor, Tensor]:
    """Inner products of rounded rows or points with other rounded ones, in the units of both.

    Args:
        shard: The shard.
        at: Positions, shape (m,), int64.
        a: `a` halves of the others, `in_units`, shape (t, d_in), float32.
        b: Their `b` halves, shape (t, d_out), float32.
        which: Whether rows or points.

    Returns:
        Of the `a` halves and of the `b` halves, each of shape (t, m), float32.
    """
    values, d_in = shard.select(which), shard.pool.d_in
    here = values.device
    at, a, b = at.to(here), a.to(here), b.to(here)
    out = torch.empty(2, len(a), len(at), device=here)
    for some in chunks(len(at)):
        out[0][:, some] = a @ in_units(values[:, :d_in], at[some])[0].T
        out[1][:, some] = b @ in_units(values[:, d_in:], at[some])[0].T
    return out[0].cpu(), out[1].cpu()


def cluster_parts(shard: Shard, labels: Tensor, means: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What the sum of the MSUs' updates has in common with its clusters' means.

    Args:
        shard: The shard.
        labels: Cluster of each MSU, shape (n,), int64.
        means: Means of the clusters, shape (k, d), float64.

    Returns:
        For each cluster the inner product of its mean's update with the sum of the MSUs', shape (k,);
        for each MSU the squared distances of its halves to those of its cluster's mean, shape (2, n),
        and the squared lengths of its halves, shape (2, n); float64.
    """
    rows, d_in = shard.pool.rows, shard.pool.d_in
    labels, means = labels.to(rows.device), means.to(rows.device)
    inner = torch.zeros(len(means), dtype=torch.float64, device=rows.device)
    apart = torch.empty(2, len(rows), dtype=torch.float64, device=rows.device)
    whole = torch.empty_like(apart)
    halves = (slice(0, d_in), slice(d_in, rows.shape[1]))
    squared = [means[:, half].square().sum(dim=1) for half in halves]
    for some in chunks(len(rows), CHUNK):
        products = []
        for which, half in enumerate(halves):
            wide = rows[some, half].double()
            products.append(wide @ means[:, half].T)
            mine = products[which].gather(1, labels[some, None])[:, 0]
            whole[which, some] = wide.square_().sum(dim=1)
            apart[which, some] = whole[which, some] - 2 * mine + squared[which][labels[some]]
        inner += (products[0] * products[1]).sum(dim=0)
    return inner.cpu(), apart.clamp_(min=0).cpu(), whole.cpu()


def all_products(shard: Shard, at: Tensor) -> Tensor:
    """Inner products of the points at some positions, shape (m, m), float64.

    Args:
        shard: The shard.
        at: Positions in it, shape (m,), int64.
    """
    return gram(shard.points[at.to(shard.points.device)]).cpu()


def _moved(values: Tensor, before: Tensor, after: Tensor, k: int, quanta: Tensor) -> PartialSums:
    here = values.device
    found = moved_sums(values, before.to(here), after.to(here), k, quanta.to(here))
    return PartialSums(found.sums.cpu(), found.counts.cpu())
