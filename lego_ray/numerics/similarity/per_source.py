"""Each source's own update at a site, against itself and against the merged one, from the factors.

A source's rows are taken longest first, whatever order they came in, and lie in one shard; so its
figures have the same bits in any pool and any cut of one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lego_ray.lazy import Tensor, torch
from lego_ray.numerics.kmeans.partial_sums import chunks
from lego_ray.numerics.msu import canonical_order
from lego_ray.numerics.norms import (
    block_bounds,
    inner_product,
    squared_norm_of_sum,
    update_block,
)
from lego_ray.numerics.pool import Pool
from lego_ray.numerics.shards.shard import Shard

# Each adapter's number and rows, as `sources_of` gives them.
Sources = Sequence[tuple[int, Tensor]]


@dataclass(frozen=True, slots=True)
class SourceComparison:
    """A source's own update dW against the merged one W, in squared parameter units.

    Attributes:
        squared: `||dW||_F^2`.
        inner: `<W, dW>_F`.
    """

    squared: float
    inner: float

    def __add__(self, other: SourceComparison) -> SourceComparison:
        """The comparison over two sites together."""
        return SourceComparison(self.squared + other.squared, self.inner + other.inner)

    @property
    def share_kept(self) -> float | None:
        """`<W, dW> / ||dW||^2`: how much of dW is in W, by its own measure; None where dW is zero.

        1 for the exact sum of updates that are orthogonal to each other, 1/T for their mean, w if dW
        went in with weight w, and below 0 where W undoes what dW does.
        """
        return self.inner / self.squared if self.squared > 0 else None

    def cosine(self, merged: float) -> float | None:
        """`<W, dW> / (||W|| ||dW||)` for `||W||^2` = merged; None where one of them is zero."""
        if self.squared <= 0 or merged <= 0:
            return None
        return self.inner / math.sqrt(self.squared * merged)


def squared_norms_of_sources(pool: Pool, sources: Sources | None = None) -> dict[int, float]:
    """`||dW_t||_F^2` of each adapter t of a pool, weight and scaling folded in, by its number.

    Args:
        pool: The adapters' MSUs.
        sources: What `sources_of` gives of the pool, if that is in memory.
    """
    found = sources_of(pool) if sources is None else sources
    return {t: squared_norm_of_sum(rows, pool.d_in) for t, rows in found}


def products_with_sources(
    pool: Pool, merged: Tensor, sources: Sources | None = None
) -> dict[int, float]:
    """`<W, dW_t>_F` of a merged update with that of each adapter t of a pool, by its number.

    Args:
        pool: The adapters' MSUs, each adapter's all of them.
        merged: Rows `[a' ; b']`, shape (k, d), float32.
        sources: What `sources_of` gives of the pool, if that is in memory.
    """
    d_in, d_out = pool.d_in, pool.rows.shape[1] - pool.d_in
    merged = merged.to(pool.rows.device)
    if merged.numel() <= 2 * d_in * d_out:
        return {
            t: sum(inner_product(rows[some], merged, d_in) for some in chunks(len(rows)))
            for t, rows in (sources_of(pool) if sources is None else sources)
        }
    # So many merged ranks that blocks of the dense W are cheaper. The pool's size has no say in it.
    found: dict[int, float] = {}
    for start, end in block_bounds(d_in, d_out):
        block = update_block(merged, d_in, start, end, torch.float64)
        for t, rows in sources_of(pool) if sources is None else sources:
            found[t] = found.get(t, 0.0) + sum(
                _product_with(block, rows[some], d_in, start, end) for some in chunks(len(rows))
            )
    return found


def _product_with(block: Tensor, rows: Tensor, d_in: int, start: int, end: int) -> float:
    """`<W, sum_i b_i a_i^T>` over rows `start` to `end` of W, which `block` is."""
    b = rows[:, d_in + start : d_in + end].double()
    return float((b * (rows[:, :d_in].double() @ block.T)).sum())


def shard_squared_norms(shard: Shard) -> dict[int, float]:
    """`squared_norms_of_sources` of a shard."""
    return squared_norms_of_sources(shard.pool)


def shard_products(shard: Shard, merged: Tensor) -> dict[int, float]:
    """`products_with_sources` of a shard.

    Args:
        shard: The shard.
        merged: Rows of the merged update, shape (k, d).
    """
    return products_with_sources(shard.pool, merged)


def sources_of(pool: Pool) -> Iterator[tuple[int, Tensor]]:
    """Each adapter's number and rows, longest first, adapters by number."""
    order = canonical_order(pool.rows, pool.lengths)
    order = order[torch.argsort(pool.adapters[order], stable=True)]
    numbers, counts = torch.unique_consecutive(pool.adapters[order], return_counts=True)
    for number, at in zip(numbers.tolist(), torch.split(order, counts.tolist()), strict=True):
        yield number, pool.rows[at.to(pool.rows.device)]
