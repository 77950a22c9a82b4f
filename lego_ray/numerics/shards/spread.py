"""A pool held in shards, seen as one pool in canonical order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from lego_ray.lazy import Tensor, torch
from lego_ray.numerics.msu import longest_first
from lego_ray.numerics.norms import UpdateComparison, block_bounds, inner_product
from lego_ray.numerics.shards import shard as work
from lego_ray.numerics.shards.shard import Shard, Which

T = TypeVar("T")


class Shards(Protocol):
    """Where the shards are, and how they are asked: in this process, or actors on a cluster."""

    def map(
        self, function: Callable[..., T], *shared: Any, own: Sequence[Any] | None = None
    ) -> Iterator[T]:
        """Calls `function(shard, [its own argument,] *shared)` on every shard, at once if it can.

        Args:
            function: A module's function of `numerics`; it must not change the shard.
            shared: Arguments every shard gets.
            own: One more argument for each shard.

        Yields:
            The answers in the shards' order, each only when the one before it was taken, so that
            an answer of many numbers need not be held beside the others.
        """


class LocalShards:
    """Shards in this process: the serial twin of actors."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._shards = shards

    def map(
        self, function: Callable[..., T], *shared: Any, own: Sequence[Any] | None = None
    ) -> Iterator[T]:
        """Calls the function on each shard in turn.

        Args:
            function: Called with a shard, its own argument if there is one, and what is shared.
            *shared: Arguments that all shards get.
            own: An argument for each shard; None for none.

        Yields:
            What each call returns, in the order of the shards.
        """
        for number, shard in enumerate(self._shards):
            yield function(shard, *(() if own is None else (own[number],)), *shared)


class SpreadPool:
    """A pool whose rows are in shards, and whose facts are here: a few numbers a row.

    Attributes:
        shards: Where the rows are.
        n: Number of MSUs.
        d_in: Length of the `a` half.
        width: d.
        adapters: Source adapter of each MSU in canonical order, shape (n,), int64.
        ranks: Its rank there, shape (n,), int64.
        squared: Squared length of each point, shape (n,), float64.
    """

    def __init__(self, shards: Shards) -> None:
        """Asks each shard for its facts and puts all rows in canonical order."""
        self.shards = shards
        found = list(shards.map(work.facts))
        self._sizes = [len(f.adapters) for f in found]
        self.n, self.d_in, self.width = sum(self._sizes), found[0].d_in, found[0].width
        self._shard = torch.repeat_interleave(torch.tensor(self._sizes))
        self._order = longest_first(torch.cat([f.lengths for f in found]), self._digests)
        self.adapters = torch.cat([f.adapters for f in found])[self._order]
        self.ranks = torch.cat([f.ranks for f in found])[self._order]
        self.squared = torch.cat([f.squared for f in found])[self._order]

    @property
    def n_shards(self) -> int:
        """Number of shards."""
        return len(self._sizes)

    @property
    def mean_rank(self) -> float:
        """Mean rank of the adapters that have this site."""
        return self.n / int(torch.unique(self.adapters).numel())

    def gather(self, parts: Sequence[Tensor]) -> Tensor:
        """Joins what the shards said of each of their rows, shape (..., n), in canonical order."""
        return torch.cat(list(parts), dim=-1)[..., self._order]

    def split(self, values: Tensor) -> list[Tensor]:
        """The inverse of `gather`: values of shape (..., n) in canonical order, cut by shard."""
        there = torch.empty_like(values)
        there[..., self._order] = values
        return list(torch.split_with_sizes(there, self._sizes, dim=-1))

    def compare(self, merged: Tensor) -> UpdateComparison:
        """Compares a merged site, rows of shape (k, d), with the sum of the pool's updates.

        Holds one block of the dense sum at a time. Where the merge may be the exact sum, products are
        float64, else float32; see `lowrank.update_block`.
        """
        kind = torch.float64 if merged.shape[0] >= self.n else torch.float32
        return UpdateComparison(
            merged=inner_product(merged, merged, self.d_in),
            total=self.squared_norm_of_sum(kind),
            inner=math.fsum(self.shards.map(work.inner, merged)),
        )

    def squared_norm_of_sum(self, kind: torch.dtype) -> float:
        """`||sum_i b_i a_i^T||_F^2` over the pool; holds one block of the dense sum at a time.

        Args:
            kind: Of the products; see `norms.update_block`.
        """
        squares = []
        for start, end in block_bounds(self.d_in, self.width - self.d_in):
            blocks = self.shards.map(work.dense_block, start, end, kind)
            total = next(blocks)
            for block in blocks:
                total = total + block
            squares.append(float(total.square().sum()))
        return math.fsum(squares)

    def locate(self, positions: Tensor) -> tuple[list[Tensor], Tensor]:
        """Where some rows are.

        Args:
            positions: In canonical order, shape (m,), int64.

        Returns:
            For each shard the positions it has them at, and the permutation that puts the shards'
            answers, joined, back in the order asked, shape (m,), int64.
        """
        return self._locate(self._order[positions])

    def take(self, positions: Tensor, which: Which) -> Tensor:
        """Rows or points at some positions, shape (m, d), float32, in the order asked.

        Args:
            positions: In the pool, shape (m,), int64.
            which: Whether rows or points.
        """
        own, back = self.locate(positions)
        return torch.cat(list(self.shards.map(work.take, which, own=own)))[back]

    def _locate(self, rows: Tensor) -> tuple[list[Tensor], Tensor]:
        """The same for rows numbered as the shards hold them, one after another."""
        shard = self._shard[rows]
        starts = torch.cumsum(torch.tensor([0, *self._sizes[:-1]]), 0)
        own = [rows[shard == s] - starts[s] for s in range(len(self._sizes))]
        return own, torch.argsort(torch.argsort(shard, stable=True))

    def _digests(self, rows: Tensor) -> list[bytes]:
        own, back = self._locate(rows)
        joined = [d for part in self.shards.map(work.row_digests, own=own) for d in part]
        return [joined[i] for i in back.tolist()]
