"""What the methods share that are made of the singular terms of the sum of the updates."""

from __future__ import annotations

from abc import abstractmethod

from lego_ray.lazy import Tensor, torch
from lego_ray.methods.base import SiteSolution, SpreadCosts
from lego_ray.methods.whole import Whole
from lego_ray.numerics.costs import Costs, spread_fixed_bytes, spread_row_bytes
from lego_ray.numerics.decompositions.truncated_svd import (
    UpdateSvd,
    dense_costs,
    svd_costs,
    svd_of_dense,
    svd_of_sum,
)
from lego_ray.numerics.exact_sum import dense_sum
from lego_ray.numerics.kmeans.lloyd import in_one_shard
from lego_ray.numerics.lineage import lineage_of_rows
from lego_ray.numerics.norms import BLOCK_VALUES, UpdateComparison
from lego_ray.numerics.pool import Pool
from lego_ray.numerics.shards.spread import SpreadPool


class OfSum(Whole):
    """A method that keeps of a pool what its sum keeps; see `MergeMethod`.

    The sum is decomposed from its factors, or as a dense matrix where that takes less memory, which it
    does for pools with about as many rows as the site has: shards can add it up then.
    """

    __slots__ = ()

    @abstractmethod
    def terms(self, found: UpdateSvd, rank: int) -> tuple[Tensor, UpdateComparison]:
        """Rows `[a' ; b']` of the merged site, shape (k', d), float64, against the sum.

        Args:
            found: The sum.
            rank: k.
        """

    def costs(self, n: int, d_in: int, d_out: int, rank: int) -> Costs:
        """Those of the decomposition; see `Whole.costs`."""
        if _is_dense(n, d_in, d_out):
            return dense_costs(n, d_in, d_out)
        found = svd_costs(n, d_in, d_out)
        # The rows in their order; the merged ones, in float64 and as they are aligned and rounded.
        rows = 4 * n * (d_in + d_out) + 8 * 4 * rank * (d_in + d_out)
        return Costs(found.seconds, found.workspace_bytes + rows)

    def merged(self, pool: Pool, rank: int, generator: torch.Generator) -> SiteSolution:
        """The terms, from the factors; see `Whole.merged`."""
        return self._solution(pool, svd_of_sum(pool.rows, pool.d_in), rank)

    def spread(self, n: int, d_in: int, d_out: int, rank: int) -> SpreadCosts | None:
        """Shards give blocks of the dense sum, if that is what is decomposed."""
        if not _is_dense(n, d_in, d_out):
            return None
        d, each = d_in + d_out, spread_row_bytes(rank, 1)
        fixed = spread_fixed_bytes(d, 1, 1) + 64 * BLOCK_VALUES  # a block in parts, and on its way
        owner = dense_costs(0, d_in, d_out).workspace_bytes
        return SpreadCosts(4 * d + each, fixed, owner + n * each)

    def solve(
        self, pool: Pool, rank: int, generator: torch.Generator, route: str = ""
    ) -> SiteSolution:
        """Merges one site; see `MergeMethod.solve`."""
        if _is_dense(pool.n, pool.d_in, pool.rows.shape[1] - pool.d_in):
            return self.solve_spread(in_one_shard(self.shard(pool)), rank, generator)
        return self.merged(pool.in_order(), rank, generator)

    def solve_spread(self, pool: SpreadPool, rank: int, generator: torch.Generator) -> SiteSolution:
        """Merges one site in shards; see `MergeMethod.solve_spread`."""
        if not _is_dense(pool.n, pool.d_in, pool.width - pool.d_in):
            return Whole.solve_spread(self, pool, rank, generator)
        return self._solution(pool, svd_of_dense(dense_sum(pool)), rank)

    def _solution(self, pool: Pool | SpreadPool, found: UpdateSvd, rank: int) -> SiteSolution:
        rows, comparison = self.terms(found, rank)
        rows = rows.float()
        return SiteSolution(
            adapters=pool.adapters,
            ranks=pool.ranks,
            rows=rows.cpu(),
            comparison=comparison,
            lineage=lineage_of_rows(pool, rows),
        )


def _is_dense(n: int, d_in: int, d_out: int) -> bool:
    """Whether a pool's sum is decomposed as a dense matrix, which its size alone decides."""
    if n > max(d_in, d_out):
        return True
    dense, factors = dense_costs(n, d_in, d_out), svd_costs(n, d_in, d_out)
    return dense.workspace_bytes < factors.workspace_bytes
