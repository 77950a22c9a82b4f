"""Reads a site's spectrum: what is done to a pool before its rank is chosen, whatever merges it then."""

from __future__ import annotations

from collections.abc import Sequence

from lego_ray.lazy import Tensor
from lego_ray.methods.base import Route, SpreadCosts
from lego_ray.numerics.costs import spread_row_bytes
from lego_ray.numerics.decompositions.spectrum import (
    energies_of_rows,
    energies_of_shards,
    owner_bytes,
    rows_costs,
    shard_bytes,
    shards_costs,
)
from lego_ray.numerics.kmeans.lloyd import in_one_shard
from lego_ray.numerics.pool import Pool
from lego_ray.numerics.shards.shard import Shard
from lego_ray.numerics.shards.spread import SpreadPool


class Measure:
    """Gives the squared singular values of the sum of a pool's updates; see `PoolWork`."""

    name = "measure"

    def prepare(self, rows: Tensor, d_in: int) -> Tensor:
        """The MSUs as they are."""
        return rows

    def routes(self, n: int, d_in: int, d_out: int, rank: int) -> Sequence[Route]:
        """One, called `spectrum`."""
        costs = rows_costs if n <= min(d_in, d_out) else shards_costs
        return [Route("spectrum", costs(n, d_in, d_out))]

    def spread(self, n: int, d_in: int, d_out: int, rank: int) -> SpreadCosts:
        """Shards give blocks of the dense sum, whose owner holds the smaller of its squares."""
        row = 4 * (d_in + d_out) + spread_row_bytes(1, 1)
        return SpreadCosts(row, shard_bytes(d_in, d_out), owner_bytes(n, d_in, d_out))

    def shard(self, pool: Pool) -> Shard:
        """A shard of the MSUs as they are."""
        return Shard.of(pool)

    def measured(self, pool: Pool) -> Tensor:
        """The spectrum of a pool in memory.

        Args:
            pool: The site's MSUs, in any order.

        Returns:
            Squared singular values, largest first, shape (min(n, d_in, d_out),), float64.
        """
        if pool.n > min(pool.d_in, pool.rows.shape[1] - pool.d_in):
            return energies_of_shards(in_one_shard(self.shard(pool)))
        return energies_of_rows(pool.in_order().rows, pool.d_in)

    def measured_spread(self, pool: SpreadPool) -> Tensor:
        """The same of a pool in shards; one with fewer MSUs than both sides, to float64 rounding."""
        return energies_of_shards(pool)[: pool.n]
