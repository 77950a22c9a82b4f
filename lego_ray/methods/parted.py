"""What the methods share whose shards can tell all that is needed: the pool whole is one shard."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lego_ray.lazy import Tensor, torch
from lego_ray.methods.base import Route, SiteSolution, SpreadCosts
from lego_ray.numerics.costs import (
    MATMUL_64,
    TOUCH,
    Costs,
    spread_fixed_bytes,
    spread_row_bytes,
)
from lego_ray.numerics.kmeans.lloyd import in_one_shard
from lego_ray.numerics.lineage import Lineage
from lego_ray.numerics.norms import UpdateComparison, compare_updates
from lego_ray.numerics.pool import Pool
from lego_ray.numerics.shards.shard import Shard
from lego_ray.numerics.shards.spread import SpreadPool

# Passes over the pool in float64: peaks, votes, sums, and what drops entries before each.
PASSES = 8


@dataclass(frozen=True, slots=True)
class MergedRows:
    """A merged site, as a method makes it.

    Attributes:
        rows: Rows `[a' ; b']`, shape (k', d), float64, k' <= k.
        lineage: Which MSUs each is made of; None if the method does not say.
    """

    rows: Tensor
    lineage: Lineage | None = None


class Parted(ABC):
    """A method with one algorithm, over shards; see `MergeMethod`."""

    __slots__ = ()

    @property
    @abstractmethod
    def name(self) -> str:
        """The name it is registered and recorded under."""

    @abstractmethod
    def merged_rows(self, pool: SpreadPool, rank: int, generator: torch.Generator) -> MergedRows:
        """The merged site, and what it is made of.

        Args:
            pool: The pool.
            rank: k.
            generator: CPU generator of the site.
        """

    def check_ranks(  # noqa: B027 - a method need not refuse any
        self, ranks: Mapping[str, Sequence[int]], rank: int
    ) -> None:
        """Any rank will do."""

    def prepare(self, rows: Tensor, d_in: int) -> Tensor:
        """The MSUs as they are."""
        return rows

    def routes(self, n: int, d_in: int, d_out: int, rank: int) -> Sequence[Route]:
        """One, called `parts`: passes over the MSUs."""
        d = d_in + d_out
        norm = min(n * n * d, 2 * n * d_in * d_out) / MATMUL_64
        costs = Costs(PASSES * n * d * TOUCH + norm, spread_fixed_bytes(d, rank, 1) + 64 * n)
        return [Route("parts", costs)]

    def spread(self, n: int, d_in: int, d_out: int, rank: int) -> SpreadCosts | None:
        """Shards give about k rows of results, never their own."""
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
        merged = self.merged_rows(spread, rank, generator)
        rows = merged.rows.float()
        comparison = compare_updates(rows.to(pool.rows.device), pool.rows, pool.d_in)
        return _solution(spread, rows, comparison, merged.lineage)

    def solve_spread(self, pool: SpreadPool, rank: int, generator: torch.Generator) -> SiteSolution:
        """Merges one site in shards; see `MergeMethod.solve_spread`."""
        merged = self.merged_rows(pool, rank, generator)
        rows = merged.rows.float()
        return _solution(pool, rows, pool.compare(rows), merged.lineage)


def _solution(
    pool: SpreadPool, rows: Tensor, comparison: UpdateComparison, lineage: Lineage | None
) -> SiteSolution:
    return SiteSolution(
        adapters=pool.adapters,
        ranks=pool.ranks,
        rows=rows,
        comparison=comparison,
        lineage=lineage,
    )
