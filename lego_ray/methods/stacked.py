"""What the methods share that merge A and B apart, entry by entry and rank by rank.

They are those of PEFT's `add_weighted_adapter` without `_svd` in their names, with `sqrt(s)`, and so the
adapter's weight, folded into both halves before anything else is done. A sum of products is not the
product of sums: for adapters that share nothing expect cross terms as large as the updates themselves.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lego_ray.errors import InvalidOption
from lego_ray.methods.base import Route, SiteSolution, SpreadCosts
from lego_ray.numerics.costs import (
    MATMUL_64,
    TOUCH,
    Costs,
    spread_fixed_bytes,
    spread_row_bytes,
)
from lego_ray.numerics.kmeans import in_one_shard
from lego_ray.numerics.lowrank import UpdateComparison, compare_updates
from lego_ray.numerics.pool import Pool
from lego_ray.numerics.shard import Shard
from lego_ray.numerics.spread import SpreadPool

# Passes over the pool in float64: peaks, votes, sums, and what drops entries before each.
PASSES = 8


class Stacked(ABC):
    """A method whose merged rank i is made of rank i of every adapter; see `MergeMethod`."""

    __slots__ = ()

    @property
    @abstractmethod
    def name(self) -> str:
        """The name it is registered and recorded under."""

    @abstractmethod
    def merged_rows(self, pool: SpreadPool, generator: torch.Generator) -> Tensor:
        """Rows `[a' ; b']`, shape (r, d), float64, r the largest rank of the adapters.

        Args:
            pool: The pool.
            generator: CPU generator of the site.
        """

    def check_ranks(self, ranks: Mapping[str, Sequence[int]], rank: int) -> None:
        """The merged adapter has the largest rank of its sources, and cannot have less."""
        site = max(ranks, key=lambda name: max(ranks[name]))
        needed = max(ranks[site])
        if rank < needed:
            raise InvalidOption(
                "--rank",
                f"{rank} is below the rank {needed} of a source at {site}, and the {self.name} method "
                "merges rank by rank",
                f"Give --rank {needed}, or take a method that lowers ranks, such as svd.",
            )

    def prepare(self, rows: Tensor, d_in: int) -> Tensor:
        """The MSUs as they are."""
        return rows

    def routes(self, n: int, d_in: int, d_out: int, rank: int) -> Sequence[Route]:
        """One: passes over the MSUs."""
        d = d_in + d_out
        norm = min(n * n * d, 2 * n * d_in * d_out) / MATMUL_64
        costs = Costs(PASSES * n * d * TOUCH + norm, spread_fixed_bytes(d, rank, 1) + 64 * n)
        return [Route("ranks", costs)]

    def spread(self, n: int, d_in: int, d_out: int, rank: int) -> SpreadCosts | None:
        """Shards give their sums by rank."""
        d = d_in + d_out
        fixed = spread_fixed_bytes(d, rank, 1)
        each = spread_row_bytes(rank, 1)
        return SpreadCosts(4 * d + each, fixed, fixed + n * each)

    def shard(self, pool: Pool) -> Shard:
        """A shard of the MSUs as they are."""
        return Shard.of(pool)

    def solve(
        self, pool: Pool, rank: int, generator: torch.Generator, route: str = ""
    ) -> SiteSolution:
        """Merges one site; see `MergeMethod.solve`."""
        spread = in_one_shard(self.shard(pool))
        rows = self.merged_rows(spread, generator).float()
        comparison = compare_updates(rows.to(pool.rows.device), pool.rows, pool.d_in)
        return _solution(spread, rows, comparison)

    def solve_spread(self, pool: SpreadPool, rank: int, generator: torch.Generator) -> SiteSolution:
        """Merges one site in shards; see `MergeMethod.solve_spread`."""
        rows = self.merged_rows(pool, generator).float()
        return _solution(pool, rows, pool.compare(rows))


def _solution(pool: SpreadPool, rows: Tensor, comparison: UpdateComparison) -> SiteSolution:
    return SiteSolution(adapters=pool.adapters, ranks=pool.ranks, rows=rows, comparison=comparison)
