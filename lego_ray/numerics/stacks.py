"""Merges factor pairs entry by entry: rank i of one adapter with rank i of the others.

`A' = sum_t A_t` and `B' = sum_t B_t`, or of each entry only those of the sign that prevails. Adapters of
a lower rank count as padded with zeros. Sums are exact on a grid, so shards and their order change no
bit, and only k x d partial results leave a shard.

A merged rank `b' a'^T` is a product of two sums, so an adapter's part in it is that in either, half and
half: with x what is left of its rank i, `<x_a, a'> / |a'|^2 / 2 + <x_b, b'> / |b'|^2 / 2`. Of a mean,
each entry of x is divided by the number of adapters that it is over. These shares add up to 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from lego_ray.lazy import Tensor, torch
from lego_ray.numerics.kmeans.partial_sums import PartialSums, chunks, fold, partial_sums, quanta_of
from lego_ray.numerics.lineage import Lineage, rounded
from lego_ray.numerics.shards import shard as work
from lego_ray.numerics.shards.shard import Shard
from lego_ray.numerics.shards.spread import SpreadPool
from lego_ray.numerics.sparsify import Sparsity, sparsify

# How the sign of an entry is elected: by the sum of its values, or by the number of each sign.
Election = Literal["total", "frequency"]


def sum_by_rank(pool: SpreadPool, sparsity: Sparsity) -> tuple[Tensor, Lineage]:
    """Sums what is left of the adapters, rank by rank.

    Args:
        pool: The pool.
        sparsity: What is dropped of each adapter first.

    Returns:
        Rows `[a' ; b']`, shape (r, d), float64, r the largest rank of the adapters; and their lineage.
    """
    k, quanta = _size(pool), _quanta(pool, sparsity)
    rows = fold(pool.shards.map(rank_sums, k, quanta, sparsity)).sums
    return rows, _lineage(pool, rows, sparsity)


def mean_of_prevailing(
    pool: SpreadPool, sparsity: Sparsity, election: Election
) -> tuple[Tensor, Lineage]:
    """Elects each entry's sign and takes the mean of the adapters that agree with it.

    TIES-Merging (arXiv 2306.01708, section 3) on A and B apart: with `g` the sign elected, an entry is
    the mean over `{t : sign(x_t) = g}`, which zeros are never part of; 0 if no adapter is left.

    Args:
        pool: The pool.
        sparsity: What is dropped of each adapter first.
        election: How signs are elected; a tie is positive.

    Returns:
        Rows `[a' ; b']`, shape (r, d), float64, r the largest rank of the adapters; and their lineage.
    """
    k, quanta = _size(pool), _quanta(pool, sparsity)
    if election == "total":
        votes = fold(pool.shards.map(rank_sums, k, quanta, sparsity)).sums
    else:
        votes = sum(pool.shards.map(rank_votes, k, sparsity), torch.zeros(k, pool.width))
    positive = votes >= 0
    agreeing = torch.zeros(k, pool.width)
    sums = torch.zeros(k, pool.width, dtype=torch.float64)
    for part, counts in pool.shards.map(agreeing_sums, positive, quanta, sparsity):
        sums += part.sums
        agreeing += counts
    agreeing = agreeing.clamp(min=1)
    rows = sums / agreeing
    return rows, _lineage(pool, rows, sparsity, positive, agreeing)


def _lineage(
    pool: SpreadPool,
    rows: Tensor,
    sparsity: Sparsity,
    positive: Tensor | None = None,
    agreeing: Tensor | None = None,
) -> Lineage:
    """What merged rows are made of, as in the module."""
    halves = (rows[:, : pool.d_in], rows[:, pool.d_in :])
    squares = torch.stack([half.square().sum(dim=1) for half in halves])
    scale = rows if agreeing is None else rows / agreeing
    parts = pool.shards.map(rank_shares, scale, squares, positive, sparsity)
    return Lineage.of_each(pool.ranks, pool.gather(list(parts)))


def rank_shares(
    shard: Shard, scale: Tensor, squares: Tensor, positive: Tensor | None, sparsity: Sparsity
) -> Tensor:
    """Share of each of a shard's MSUs in the merged rank of its number, shape (n,), float64.

    Args:
        shard: The shard.
        scale: Merged rows, of means divided by the number of adapters, shape (k, d), float64.
        squares: Squared lengths of the two halves of the merged rows, shape (2, k), float64.
        positive: As for `agreeing_sums`; None if no sign is elected.
        sparsity: What is dropped of each adapter first.
    """
    pool = shard.pool
    here, d_in = pool.rows.device, pool.d_in
    out = torch.zeros(pool.n, dtype=torch.float64)
    there = (squares > 0).all(dim=0)  # else the rank is zero
    scale = scale.to(here)
    positive = None if positive is None else positive.to(here)
    for rows, at, mine in _adapters(shard, sparsity):
        for some in chunks(len(rows)):
            x, i = rows[some], at[some]
            if positive is not None:
                x = torch.where(torch.where(positive[i], x > 0, x < 0), x, 0.0)
            products = x.double() * scale[i]
            halves = torch.stack([products[:, :d_in].sum(dim=1), products[:, d_in:].sum(dim=1)])
            shares = (halves.cpu() / squares[:, i.cpu()]).mean(dim=0)
            out[mine[some]] = torch.where(there[i.cpu()], rounded(shares), 0.0)
    return out


def rank_sums(shard: Shard, k: int, quanta: Tensor, sparsity: Sparsity) -> PartialSums:
    """A shard's part of `sum_by_rank`.

    Args:
        shard: The shard.
        k: Ranks of the merged site.
        quanta: Grid step of each column, shape (d,), float64.
        sparsity: Which entries of each adapter stay.
    """
    here = quanta.to(shard.pool.rows.device)
    return _to_cpu(
        fold(partial_sums(rows, at, k, here) for rows, at, _ in _adapters(shard, sparsity))
    )


def rank_votes(shard: Shard, k: int, sparsity: Sparsity) -> Tensor:
    """Positive less negative entries of each rank, shape (k, d), float32.

    Args:
        shard: The shard.
        k: Ranks of the merged site.
        sparsity: Which entries of each adapter stay.
    """
    votes = torch.zeros(k, shard.pool.rows.shape[1], device=shard.pool.rows.device)
    for rows, at, _ in _adapters(shard, sparsity):
        votes.index_add_(0, at, rows.sign())
    return votes.cpu()


def agreeing_sums(
    shard: Shard, positive: Tensor, quanta: Tensor, sparsity: Sparsity
) -> tuple[PartialSums, Tensor]:
    """Sums of a shard's entries of the sign elected, and their number, shape (k, d), float32.

    Args:
        shard: The shard.
        positive: Whether that is the positive one, shape (k, d), bool.
        quanta: The pool's grid, shape (d,), float64.
        sparsity: What is dropped of each adapter first.
    """
    device = shard.pool.rows.device
    positive, quanta = positive.to(device), quanta.to(device)
    k = positive.shape[0]
    counts = torch.zeros(positive.shape, device=device)
    total = PartialSums(
        torch.zeros(positive.shape, dtype=torch.float64, device=device),
        torch.zeros(k, dtype=torch.float64, device=device),
    )
    for rows, at, _ in _adapters(shard, sparsity):
        agree = torch.where(positive[at], rows > 0, rows < 0)
        counts.index_add_(0, at, agree.float())
        total.add_(partial_sums(torch.where(agree, rows, 0.0), at, k, quanta))
    return _to_cpu(total), counts.cpu()


def _adapters(shard: Shard, sparsity: Sparsity) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """What is left of each adapter's rows, their ranks, and their positions in the shard.

    All at once if nothing is dropped.
    """
    pool = shard.pool
    if not sparsity.drops:
        yield pool.rows, pool.ranks.to(pool.rows.device), torch.arange(pool.n)
        return
    for adapter in torch.unique(pool.adapters).tolist():
        at = (pool.adapters == adapter).nonzero()[:, 0]
        own = pool.rows[at.to(pool.rows.device)]
        yield sparsify(own, pool.d_in, sparsity), pool.ranks[at].to(own.device), at


def _size(pool: SpreadPool) -> int:
    return int(pool.ranks.max()) + 1


def _quanta(pool: SpreadPool, sparsity: Sparsity) -> Tensor:
    peaks = torch.stack(list(pool.shards.map(work.peaks, "rows"))).amax(dim=0)
    return quanta_of(peaks / sparsity.growth, pool.n)


def _to_cpu(sums: PartialSums) -> PartialSums:
    return PartialSums(sums.sums.cpu(), sums.counts.cpu())
