"""The spectrum of a sum of updates, against dense float64 singular values."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from lego_ray.numerics.decompositions.spectrum import energies_of_rows, energies_of_shards
from lego_ray.numerics.exact_sum import dense_sum, gram_of_sum
from lego_ray.numerics.pool import Pool
from lego_ray.numerics.shards.shard import Shard
from lego_ray.numerics.shards.spread import LocalShards, SpreadPool
from tests.numerics.factors import D_IN, D_OUT, factors, pool_from, update, zoo

# Energies lose to the squares what float64 has to give: a few units of the largest.
ROUNDING = 64 * 2.0**-52
# Shards' products are exact on a grid of two parts, 23 bits each at 18 rows, of a column's largest.
GRID = 8 * 2.0**-46


def dense_energies(pool: Pool) -> np.ndarray:
    return np.linalg.svd(update(pool.rows, pool.d_in), compute_uv=False) ** 2


def spread(pool: Pool, cuts: list[int]) -> SpreadPool:
    parts = [
        replace(
            pool,
            rows=pool.rows[start:end],
            adapters=pool.adapters[start:end],
            ranks=pool.ranks[start:end],
            lengths=pool.lengths[start:end],
        )
        for start, end in itertools.pairwise([0, *cuts, pool.n])
    ]
    return SpreadPool(LocalShards([Shard.of(part) for part in parts]))


@pytest.mark.parametrize("ranks", [[3], [2, 3, 4], [4, 5]], ids=str)
def test_a_pool_below_both_sides(ranks: list[int]) -> None:
    pool = pool_from(zoo(ranks, [2.0, -1.0, 0.5][: len(ranks)]))
    wanted = dense_energies(pool)
    for found in (
        energies_of_rows(pool.rows, pool.d_in),
        torch.cat([energies_of_shards(spread(pool, [1])), torch.zeros(pool.n)])[: pool.n],
    ):
        assert found.shape == (sum(ranks),)
        np.testing.assert_allclose(found, wanted[: pool.n], rtol=0, atol=ROUNDING * wanted[0])


@pytest.mark.parametrize(("d_in", "d_out"), [(D_IN, D_OUT), (D_OUT, D_IN), (8, 8)])
def test_a_pool_above_a_side_to_the_same_bits_however_it_is_cut(d_in: int, d_out: int) -> None:
    adapters = [(*factors(t, 6, d_in, d_out), s) for t, s in enumerate([2.0, -1.0, 0.5])]
    pool = pool_from(adapters)
    wanted = dense_energies(pool)
    found = energies_of_shards(spread(pool, []))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=GRID * wanted[0])
    for cuts in ([6], [5, 11], [1, 2, 17]):
        assert torch.equal(energies_of_shards(spread(pool, cuts)), found)


def test_the_square_is_that_of_the_dense_sum() -> None:
    for d_in, d_out in ((D_IN, D_OUT), (D_OUT, D_IN)):
        pool = spread(pool_from([(*factors(t, 6, d_in, d_out), 1.0) for t in range(3)]), [6])
        total = dense_sum(pool)
        square = total @ total.T if d_out < d_in else total.T @ total
        torch.testing.assert_close(gram_of_sum(pool), square, rtol=1e-14, atol=1e-14)


def test_terms_that_are_rounding_are_nothing() -> None:
    twice = [zoo([3])[0]] * 2
    pool = pool_from(twice)
    for found in (energies_of_rows(pool.rows, pool.d_in), energies_of_shards(spread(pool, [3]))):
        assert int((found > 0).sum()) == 3
        assert bool((found[3:] == 0).all())


def test_an_adapter_never_trained_has_no_energy() -> None:
    pool = pool_from([(factors(1, 4)[0], torch.zeros(D_OUT, 4), 2.0)])
    assert energies_of_rows(pool.rows, pool.d_in).tolist() == [0.0] * 4
    assert energies_of_shards(spread(pool, [2])).tolist() == [0.0] * D_OUT
