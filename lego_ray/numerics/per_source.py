"""Each source's own update at a site, against itself and against the merged one, from the factors.

A source's rows are taken longest first, whatever order they came in, and lie in one shard; so its
figures have the same bits in any pool and any cut of one.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lego_ray.numerics.lowrank import inner_product, squared_norm_of_sum
from lego_ray.numerics.msu import canonical_order
from lego_ray.numerics.partial_sums import chunks
from lego_ray.numerics.pool import Pool
from lego_ray.numerics.shard import Shard


def squared_norms_of_sources(pool: Pool) -> dict[int, float]:
    """`||dW_t||_F^2` of each adapter t of a pool, weight and scaling folded in, by its number."""
    return {t: squared_norm_of_sum(rows, pool.d_in) for t, rows in sources_of(pool)}


def products_with_sources(pool: Pool, merged: Tensor) -> dict[int, float]:
    """`<W, dW_t>_F` of a merged update with that of each adapter t of a pool, by its number.

    Args:
        pool: The adapters' MSUs, each adapter's all of them.
        merged: Rows `[a' ; b']`, shape (k, d), float32.
    """
    merged = merged.to(pool.rows.device)
    return {
        t: sum(inner_product(rows[some], merged, pool.d_in) for some in chunks(len(rows)))
        for t, rows in sources_of(pool)
    }


def shard_squared_norms(shard: Shard) -> dict[int, float]:
    """`squared_norms_of_sources` of a shard."""
    return squared_norms_of_sources(shard.pool)


def shard_products(shard: Shard, merged: Tensor) -> dict[int, float]:
    """`products_with_sources` of a shard."""
    return products_with_sources(shard.pool, merged)


def sources_of(pool: Pool) -> Iterator[tuple[int, Tensor]]:
    """Each adapter's number and rows, longest first, adapters by number."""
    order = canonical_order(pool.rows, pool.lengths)
    order = order[torch.argsort(pool.adapters[order], stable=True)]
    numbers, counts = torch.unique_consecutive(pool.adapters[order], return_counts=True)
    for number, at in zip(numbers.tolist(), torch.split(order, counts.tolist()), strict=True):
        yield number, pool.rows[at.to(pool.rows.device)]
