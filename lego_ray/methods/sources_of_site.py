"""The adapters of a site's pool, each against itself and a merged update, whatever holds the pool."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from lego_ray.lazy import Tensor, torch
from lego_ray.numerics.norms import squared_norm_of_sum
from lego_ray.numerics.pool import Pool
from lego_ray.numerics.shards.spread import SpreadPool
from lego_ray.numerics.similarity.per_source import (
    Sources,
    products_with_sources,
    shard_products,
    shard_squared_norms,
    sources_of,
    squared_norms_of_sources,
)

# Pools whose second copy is a tenth of what a worker takes before it has read anything.
SMALL_BYTES = 32 << 20


def source_squares(pool: Pool | SpreadPool) -> dict[int, float]:
    """`||dW_t||_F^2` of each adapter of a pool, weight and scaling folded in, by its number."""
    if isinstance(pool, Pool):
        return squared_norms_of_sources(pool)
    return _joined(pool.shards.map(shard_squared_norms))


@dataclass(frozen=True)
class SiteSources:
    """The adapters of a site, for what is done to its merged update. Norms are computed once.

    Attributes:
        pool: The adapters' MSUs.
    """

    pool: Pool | SpreadPool

    @property
    def d_in(self) -> int:
        """Length of the `a` half of a row."""
        return self.pool.d_in

    @cached_property
    def squares(self) -> list[float]:
        """`||dW_t||_F^2` of each adapter; see `source_squares`."""
        if isinstance(self.pool, Pool):
            return list(squared_norms_of_sources(self.pool, self._in_memory).values())
        return list(source_squares(self.pool).values())

    @cached_property
    def _in_memory(self) -> Sources | None:
        """Each adapter's rows, put together once; None of a pool that is too large for a second copy."""
        if isinstance(self.pool, Pool) and self.pool.rows.nbytes <= SMALL_BYTES:
            return list(sources_of(self.pool))
        return None

    @cached_property
    def total(self) -> float:
        """`||sum_t dW_t||_F^2`, in float64.

        A merge is compared with the sum by cheaper products, other ones by each route. What a rule makes
        of the sum's norm must be the same by all of them.
        """
        if isinstance(self.pool, Pool):
            return squared_norm_of_sum(self.pool.rows, self.d_in)
        return self.pool.squared_norm_of_sum(torch.float64)

    def inner_with_sum(self, rows: Tensor) -> float:
        """`<W, sum_t dW_t>_F`, rounded once, so that the order of the adapters is free.

        Args:
            rows: Rows `[a' ; b']` of W, shape (k, d), float32.
        """
        if isinstance(self.pool, Pool):
            products = products_with_sources(self.pool, rows, self._in_memory)
        else:
            products = _joined(self.pool.shards.map(shard_products, rows))
        return math.fsum(products.values())


def _joined(parts: Iterable[Mapping[int, float]]) -> dict[int, float]:
    return {number: value for part in parts for number, value in part.items()}
