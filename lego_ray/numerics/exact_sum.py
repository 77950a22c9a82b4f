"""The dense sum of a pool's updates, to the same bits however the pool is cut.

For pools with more rows than both sides of the site, where the sum is the smaller thing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lego_ray.lazy import Tensor, torch
from lego_ray.numerics.kmeans.partial_sums import chunks
from lego_ray.numerics.norms import block_bounds
from lego_ray.numerics.shards import shard as work
from lego_ray.numerics.shards.shard import Shard
from lego_ray.numerics.shards.spread import SpreadPool


@dataclass(frozen=True, slots=True)
class SplitGrid:
    """Grid on which values are cut into two parts whose products add up exactly.

    With b bits a part and `2 b + log2 n <= 52`, no sum of n products of parts needs more than
    float64's 53 bits, so the order of addition is free (the splitting of Ozaki, Ogita, Oishi and Rump,
    "Error-free transformations of matrix multiplication", 2012, with two parts). What both parts leave
    out is 2^-34 of the product of two columns' largest values at 200,000 rows, less at fewer.

    Attributes:
        quanta: Of the first part, shape (d,), float64, powers of two.
        bits: b.
    """

    quanta: Tensor
    bits: int

    @classmethod
    def of(cls, peaks: Tensor, n: int) -> SplitGrid:
        """The grid of a pool.

        Args:
            peaks: The pool's `column_peaks`, shape (d,).
            n: Rows that will be added up at most.
        """
        bits = (52 - max(n - 1, 1).bit_length()) // 2
        exponent = torch.frexp(peaks.double()).exponent - bits
        return cls(torch.ldexp(torch.ones(peaks.shape[0], dtype=torch.float64), exponent), bits)

    def split(self, values: Tensor, columns: slice) -> tuple[Tensor, Tensor]:
        """Cuts values of some columns into two parts whose sums are exact.

        Args:
            values: Shape (m, c), float32.
            columns: Which columns of the pool they are, c of them.

        Returns:
            The coarse and the fine part, each (m, c), float64.
        """
        quanta = self.quanta[columns].to(values.device)
        wide = values.double()
        first = _rounded(wide, quanta)
        return first, _rounded(wide - first, quanta * 2.0**-self.bits)


def _rounded(values: Tensor, quanta: Tensor) -> Tensor:
    # Adding 1.5 * 2^52 quanta and taking them away leaves a multiple of one.
    lift = 1.5 * 2.0**52 * quanta
    return (values + lift).sub_(lift)


def exact_block(shard: Shard, grid: SplitGrid, left: slice, right: slice) -> tuple[Tensor, Tensor]:
    """A block of a shard's dense sum, as two parts that add up to the pool's exactly.

    Args:
        shard: The shard.
        grid: The pool's.
        left: Columns of its rows `[a ; b]` that become the block's rows: some of one half's.
        right: Columns that become the block's columns: some of the other half's.

    Returns:
        Products of first parts, and of first with second parts; both of shape (left, right), float64.
    """
    rows = shard.pool.rows
    shape = (left.stop - left.start, right.stop - right.start)
    out = torch.zeros(2, *shape, dtype=torch.float64, device=rows.device)
    for some in chunks(rows.shape[0]):
        b, b_rest = grid.split(rows[some, left], left)
        a, a_rest = grid.split(rows[some, right], right)
        out[0].addmm_(b.T, a)
        out[1].addmm_(b.T, a_rest).addmm_(b_rest.T, a)
    return out[0].cpu(), out[1].cpu()


def dense_sum(pool: SpreadPool) -> Tensor:
    """`sum_i b_i a_i^T` of a pool, shape (d_out, d_in), float64, a block of rows at a time."""
    d_in, d_out = pool.d_in, pool.width - pool.d_in
    out = torch.empty(d_out, d_in, dtype=torch.float64)
    for start, end, block in _blocks(pool, slice(d_in, pool.width), slice(0, d_in)):
        out[start:end] = block
    return out


def gram_of_sum(pool: SpreadPool) -> Tensor:
    """`W W^T` or `W^T W` of a pool's dense sum W, whichever is smaller; W itself is never whole.

    Returns:
        Shape (m, m), float64, m the lesser of d_in and d_out.
    """
    halves = (slice(0, pool.d_in), slice(pool.d_in, pool.width))
    short, long = sorted(halves, key=lambda half: half.stop - half.start)
    m = short.stop - short.start
    out = torch.zeros(m, m, dtype=torch.float64)
    for _, _, block in _blocks(pool, long, short):
        out.addmm_(block.T, block)
    return out


def _blocks(pool: SpreadPool, left: slice, right: slice) -> Iterator[tuple[int, int, Tensor]]:
    """The dense sum with one half's columns as rows, a block of these at a time, and which they are."""
    peaks = torch.stack(list(pool.shards.map(work.peaks, "rows"))).amax(dim=0)
    grid = SplitGrid.of(peaks, pool.n)
    width = right.stop - right.start
    for start, end in block_bounds(width, left.stop - left.start):
        large = torch.zeros(end - start, width, dtype=torch.float64)
        small = torch.zeros_like(large)
        here = slice(left.start + start, left.start + end)
        for parts in pool.shards.map(exact_block, grid, here, right):
            large += parts[0]
            small += parts[1]
        yield start, end, large + small
