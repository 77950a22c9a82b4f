"""Each source against the merged update, and sums with factors: equal to dense float64 arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lego_ray.numerics.norms import (
    UpdateComparison,
    inner_product,
    squared_distance,
    squared_norm_of_sum,
    update_block,
)
from lego_ray.numerics.pool import Pool, pool_of
from lego_ray.numerics.similarity.per_source import (
    SourceComparison,
    products_with_sources,
    sources_of,
    squared_norms_of_sources,
)
from tests.numerics.factors import D_IN, D_OUT, factors, update, zoo

# Everything is float64.
TIGHT = 1e-12
RANKS = [4, 7, 2, 300]


def unscaled_pool(ranks: list[int]) -> Pool:
    rows = [torch.cat([a, b.T], dim=1) for a, b in (factors(t, r) for t, r in enumerate(ranks))]
    return pool_of(enumerate(rows), D_IN)


# Below and above the ranks from which on blocks of the dense merged update are cheaper.
@pytest.mark.parametrize("k", [1, 5, 10, 11, 300])
def test_norms_and_products_of_each_source_are_the_dense_ones(k: int) -> None:
    pool = unscaled_pool(RANKS)
    merged = torch.cat([factors(9, k)[0], factors(9, k)[1].T], dim=1)
    squares, products = squared_norms_of_sources(pool), products_with_sources(pool, merged)
    w = update(merged, D_IN)
    for t in range(len(RANKS)):
        own = update(pool.rows[pool.adapters == t], D_IN)
        assert squares[t] == pytest.approx(np.sum(own**2), rel=TIGHT)
        assert products[t] == pytest.approx(np.sum(own * w), rel=TIGHT, abs=TIGHT * np.sum(own**2))


def test_a_source_has_the_same_bits_in_any_pool_and_order() -> None:
    whole = unscaled_pool(RANKS)
    merged = unscaled_pool([3]).rows
    order = torch.randperm(whole.n, generator=torch.Generator().manual_seed(1))
    shuffled = Pool(
        whole.rows[order], D_IN, whole.adapters[order], whole.ranks[order], whole.lengths[order]
    )
    assert squared_norms_of_sources(shuffled) == squared_norms_of_sources(whole)
    assert products_with_sources(shuffled, merged) == products_with_sources(whole, merged)
    held = list(sources_of(shuffled))
    assert squared_norms_of_sources(shuffled, held) == squared_norms_of_sources(whole)
    assert products_with_sources(shuffled, merged, held) == products_with_sources(whole, merged)
    for t in range(len(RANKS)):
        rows = whole.rows[whole.adapters == t]
        alone = pool_of([(t, rows)], D_IN)
        assert squared_norms_of_sources(alone)[t] == squared_norms_of_sources(whole)[t]
        assert products_with_sources(alone, merged)[t] == products_with_sources(whole, merged)[t]


@pytest.mark.parametrize("n", [3, 200])
def test_factors_count_each_term(n: int) -> None:
    rows, other = unscaled_pool([n]).rows, unscaled_pool([2, 3]).rows
    generator = torch.Generator().manual_seed(0)
    f = torch.randn(n, generator=generator, dtype=torch.float64)
    g = torch.randn(5, generator=generator, dtype=torch.float64)
    wide = rows.double().numpy()
    dense = (wide[:, D_IN:].T * f.numpy()) @ wide[:, :D_IN]
    theirs = (other.double().numpy()[:, D_IN:].T * g.numpy()) @ other.double().numpy()[:, :D_IN]
    assert squared_norm_of_sum(rows, D_IN, f) == pytest.approx(np.sum(dense**2), rel=TIGHT)
    assert inner_product(other, rows, D_IN, g, f) == pytest.approx(
        np.sum(dense * theirs), rel=TIGHT, abs=TIGHT * np.sum(dense**2)
    )
    block = update_block(rows, D_IN, 2, 7, torch.float64, f)
    np.testing.assert_allclose(block.numpy(), dense[2:7], rtol=TIGHT, atol=TIGHT)
    assert squared_distance(other, rows, D_IN, 0.3, f) == pytest.approx(
        np.sum((update(other, D_IN) - 0.3 * dense) ** 2), rel=TIGHT
    )


def test_a_distance_is_exact_where_a_difference_of_squares_is_not() -> None:
    rows = unscaled_pool([4, 5]).rows
    near = rows.clone()
    near[0, 0] *= 1 + 2.0**-20
    wanted = float(np.sum((update(near, D_IN) - update(rows, D_IN)) ** 2))
    found = squared_distance(near, rows, D_IN, 1.0)
    assert found == pytest.approx(wanted, rel=1e-6)
    assert squared_distance(rows, rows, D_IN, 1.0) == 0.0


def test_shares_kept() -> None:
    [(a, b, _)] = zoo([4])
    rows = torch.cat([a, b.T], dim=1)
    squared = squared_norm_of_sum(rows, D_IN)
    itself = SourceComparison(squared, squared)
    assert itself.share_kept == 1.0
    assert itself.cosine(squared) == pytest.approx(1.0, rel=TIGHT)
    both = itself + SourceComparison(squared, -squared / 2)
    assert both.share_kept == pytest.approx(0.25, rel=TIGHT)
    assert SourceComparison(0.0, 0.0).share_kept is None
    assert SourceComparison(0.0, 0.0).cosine(1.0) is None
    assert itself.cosine(0.0) is None


def test_the_least_squares_scale_is_least() -> None:
    w, s = unscaled_pool([3]).rows, unscaled_pool([2, 4]).rows
    found = UpdateComparison(
        squared_norm_of_sum(w, D_IN), squared_norm_of_sum(s, D_IN), inner_product(w, s, D_IN)
    )
    c = found.least_squares_scale
    assert c is not None
    best = np.linalg.norm(c * update(w, D_IN) - update(s, D_IN))
    for other in (c * 0.99, c * 1.01):
        assert np.linalg.norm(other * update(w, D_IN) - update(s, D_IN)) > best
    assert UpdateComparison(0.0, 1.0, 0.0).least_squares_scale is None
    assert D_OUT < D_IN
