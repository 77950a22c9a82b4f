"""How the sum of a pool's updates is spread over its singular directions, from the factors.

Of all adapters of rank k the nearest to a sum `S` with singular values `s_1 >= s_2 >= ...` is at
distance `sqrt(sum_{i>k} s_i^2)` (Eckart and Young, 1936), so the squares say what each rank is worth,
whatever method then makes the adapter.
"""

from __future__ import annotations

from lego_ray.lazy import Tensor, torch
from lego_ray.numerics.costs import (
    MATMUL_64,
    TOUCH,
    Costs,
    spread_fixed_bytes,
    spread_row_bytes,
)
from lego_ray.numerics.decompositions.truncated_svd import SMALLEST, triangular
from lego_ray.numerics.exact_sum import gram_of_sum
from lego_ray.numerics.kmeans.gram import COLUMNS
from lego_ray.numerics.norms import BLOCK_VALUES
from lego_ray.numerics.shards.spread import SpreadPool

# Both LAPACK's QR and its eigenvalues go through memory more often than a product of matrices does:
# about so many times longer for each multiply-add.
LAPACK = 3


def energies_of_rows(rows: Tensor, d_in: int) -> Tensor:
    """Squared singular values of `sum_i b_i a_i^T` by the triangles of its halves; see `triangular`.

    `A^T = Q_a R_a` and `B^T = Q_b R_b` give the sum the singular values of `R_b R_a^T`.

    Args:
        rows: Rows `[a ; b]`, shape (n, d_in + d_out), float32, n at most d_in and at most d_out.
        d_in: Length of the `a` half.

    Returns:
        Shape (n,), float64, largest first, those that are rounding set to 0.
    """
    middle = triangular(rows[:, d_in:]) @ triangular(rows[:, :d_in]).T
    return _without_rounding(torch.linalg.svdvals(middle).square().cpu())


def energies_of_shards(pool: SpreadPool) -> Tensor:
    """The same of a pool in shards, or with more rows than a side, by the sum times its transpose.

    However the pool is cut, the bits are the same.

    Returns:
        Shape (m,), float64, m the lesser of d_in and d_out.
    """
    return _without_rounding(torch.linalg.eigvalsh(gram_of_sum(pool)).clamp(min=0).flip(0))


def rows_costs(n: int, d_in: int, d_out: int) -> Costs:
    """What `energies_of_rows` takes of time and memory.

    Args:
        n: MSUs.
        d_in: Length of the `a` half.
        d_out: Length of the `b` half.
    """
    d = d_in + d_out
    multiplies = n * n * d / 2 + LAPACK * 4 * n**3
    # The rows in order; both triangles, and what one of them is made of; columns that are widened.
    wide = 4 * n * d + 8 * (7 * n * n + 2 * min(COLUMNS, d) * n)
    return Costs(multiplies / MATMUL_64 + 4 * n * d * TOUCH, wide)


def shards_costs(n: int, d_in: int, d_out: int) -> Costs:
    """What `energies_of_shards` takes, all shards and their owner together.

    Args:
        n: MSUs.
        d_in: Length of the `a` half.
        d_out: Length of the `b` half.
    """
    m = min(d_in, d_out)
    products = 3 * n * d_in * d_out + m * d_in * d_out
    seconds = (products + LAPACK * 4 * m**3 / 3) / MATMUL_64
    fixed = shard_bytes(d_in, d_out)
    return Costs(seconds, owner_bytes(0, d_in, d_out) + fixed + n * spread_row_bytes(1, 1))


def shard_bytes(d_in: int, d_out: int) -> int:
    """Memory of a shard apart from its rows: a block of the sum in parts, and on its way.

    Args:
        d_in: Length of the `a` half.
        d_out: Length of the `b` half.
    """
    return spread_fixed_bytes(d_in + d_out, 1, 1) + _block_bytes(d_in, d_out)


def owner_bytes(n: int, d_in: int, d_out: int) -> int:
    """Memory of the shards' owner: the square, LAPACK's copy of it, blocks, and facts of n rows.

    Args:
        n: MSUs of the pool.
        d_in: Length of the `a` half.
        d_out: Length of the `b` half.
    """
    square = 8 * min(d_in, d_out) ** 2
    return 3 * square + _block_bytes(d_in, d_out) + n * spread_row_bytes(1, 1)


def _block_bytes(d_in: int, d_out: int) -> int:
    """A block in two parts, their sums, and what is on its way, in float64."""
    return 64 * min(BLOCK_VALUES, d_in * d_out)


def _without_rounding(energies: Tensor) -> Tensor:
    """Nothing instead of what is rounding of float32 factors; see `truncated_svd.SMALLEST`."""
    return torch.where(energies > SMALLEST**2 * energies[0], energies, 0.0)
