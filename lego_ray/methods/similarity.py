"""Says how alike adapters' updates are at a site: what is done to a pool before adapters are grouped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lego_ray.lazy import Tensor
from lego_ray.methods.base import Route, SpreadCosts
from lego_ray.numerics.costs import MATMUL_64, TOUCH, Costs, spread_row_bytes
from lego_ray.numerics.pool import Pool
from lego_ray.numerics.shards.shard import Shard
from lego_ray.numerics.shards.spread import Shards
from lego_ray.numerics.similarity.inner_products import WIDTH
from lego_ray.numerics.similarity.parts import (
    SimilarityPart,
    joined,
    part_of,
    products_bytes,
    shard_part,
    sketch_bytes,
)

# Pools of more MSUs are sketched: products of all pairs grow with their square.
MOST_EXACT = 2048


@dataclass(frozen=True, slots=True)
class Similarity:
    """Measures inner products of updates, or sketches that have them in expectation; see `PoolWork`.

    Which of the two depends on the number of MSUs alone, except for a pool in shards, which is always
    sketched.

    Attributes:
        n_adapters: Adapters of the zoo.
        least_rank: Smallest rank any of them has at any site.
    """

    n_adapters: int
    least_rank: int

    @property
    def name(self) -> str:
        """`likeness`."""
        return "likeness"

    def prepare(self, rows: Tensor, d_in: int) -> Tensor:
        """The MSUs as they are."""
        return rows

    def routes(self, n: int, d_in: int, d_out: int, rank: int) -> Sequence[Route]:
        """One, called `products` or `sketches`."""
        d, members = d_in + d_out, self._most(n)
        if n <= MOST_EXACT:
            seconds = n * n * d / MATMUL_64 + 4 * n * d * TOUCH
            return [Route("products", Costs(seconds, products_bytes(n, d, members)))]
        fixed, each = sketch_bytes(d)
        seconds = (n * d * WIDTH + n * WIDTH * WIDTH) / MATMUL_64 + 3 * n * d * TOUCH
        return [Route("sketches", Costs(seconds, fixed + each * members + 8 * n * 64))]

    def spread(self, n: int, d_in: int, d_out: int, rank: int) -> SpreadCosts:
        """Shards give the sketches of their adapters, which the owner puts together."""
        fixed, each = sketch_bytes(d_in + d_out)
        row = 8 * (d_in + d_out) + spread_row_bytes(1, 1) + each // self.least_rank
        return SpreadCosts(row, fixed, each * self._most(n))

    def shard(self, pool: Pool) -> Shard:
        """A shard of the MSUs as they are."""
        return Shard.of(pool)

    def measured(self, pool: Pool, route: str, seed: int) -> SimilarityPart:
        """What a pool in memory says.

        Args:
            pool: The site's MSUs, in any order.
            route: The one of `routes`.
            seed: Of the site's generator.
        """
        return part_of(pool, exact=route == "products", seed=seed)

    def measured_spread(self, shards: Shards, seed: int) -> SimilarityPart:
        """The same of a pool in shards: sketches, to the bits of a pool in memory.

        Args:
            shards: The pool's, each with all ranks of its adapters.
            seed: Of the site's generator.
        """
        return joined(shards.map(shard_part, seed))

    def _most(self, n: int) -> int:
        """Adapters that n MSUs may be of."""
        return min(self.n_adapters, -(-n // self.least_rank))
