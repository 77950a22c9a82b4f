"""Inner products of updates against dense arithmetic, and groups that were planted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lego_ray.numerics.msu import msu_rows
from lego_ray.numerics.pool import Pool, pool_of
from lego_ray.numerics.similarity.grouping import group, in_order
from lego_ray.numerics.similarity.inner_products import cosines, update_products, update_sketches
from tests.numerics.factors import D_IN, factors, update, zoo


def pooled(ranks: list[int], numbers: list[int]) -> tuple[Pool, list[np.ndarray]]:
    rows = [msu_rows(*adapter) for adapter in zoo(ranks)]
    return pool_of(zip(numbers, rows, strict=True), D_IN), [update(r, D_IN) for r in rows]


@pytest.mark.parametrize("block", [3, 512])
def test_products_are_those_of_the_dense_updates(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lego_ray.numerics.similarity.inner_products.BLOCK", block)
    pool, dense = pooled([3, 1, 5, 2], [4, 0, 1, 2])  # adapter 3 lacks the site
    wanted = np.zeros((5, 5))
    for i, one in zip([4, 0, 1, 2], dense, strict=True):
        for j, two in zip([4, 0, 1, 2], dense, strict=True):
            wanted[i, j] = (one * two).sum()
    found = update_products(pool, 5)
    assert np.allclose(found.numpy(), wanted, rtol=1e-12, atol=1e-12 * np.abs(wanted).max())
    assert torch.equal(found, found.T)


def test_permuting_ranks_and_adapters_changes_no_bit() -> None:
    pool, _ = pooled([3, 1, 5, 2], [0, 1, 2, 3])
    order = torch.randperm(pool.n, generator=torch.Generator().manual_seed(1))
    mixed = Pool(
        pool.rows[order],
        pool.d_in,
        pool.adapters[order],
        pool.ranks[order],
        pool.lengths[order],
    )
    assert torch.equal(update_products(pool, 4), update_products(mixed, 4))
    made = [torch.Generator().manual_seed(2) for _ in range(2)]
    assert torch.equal(update_sketches(pool, 4, made[0]), update_sketches(mixed, 4, made[1]))


@pytest.mark.slow
def test_added_sketches_have_the_inner_products_of_all_sites() -> None:
    n_sites, n_adapters, rank, d = 40, 6, 4, 96
    exact = torch.zeros(n_adapters, n_adapters, dtype=torch.float64)
    sketched = torch.zeros(n_adapters, 64 * 64, dtype=torch.float64)
    for site in range(n_sites):
        shared = msu_rows(*factors(site, rank, d, d), 1.0)
        parts = []
        for t in range(n_adapters):
            own = msu_rows(*factors(1000 * site + t + 1, rank, d, d), 1.0)
            parts.append((t, torch.cat([shared, own]) if t % 2 else own))
        pool = pool_of(parts, d)
        exact += update_products(pool, n_adapters)
        sketched += update_sketches(pool, n_adapters, torch.Generator().manual_seed(site))
    true, found = cosines(exact), cosines(sketched @ sketched.T)
    assert true[1, 3] > 0.4  # families are there to be found
    assert true[0, 1].abs() < 0.1
    assert (true - found).abs().max() < 0.12


def test_cosines_of_an_update_that_is_zero_are_zero() -> None:
    products = torch.tensor([[4.0, 0.0, -4.0], [0, 0, 0], [-4, 0, 16]], dtype=torch.float64)
    assert cosines(products).tolist() == [[1, 0, -0.5], [0, 1, 0], [-0.5, 0, 1]]


def families(sizes: list[int], within: float, across: float) -> np.ndarray:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    found = np.where(labels[:, None] == labels, within, across).astype(np.float64)
    noise = np.random.default_rng(0).normal(0, 0.01, found.shape)
    found += (noise + noise.T) / 2
    np.fill_diagonal(found, 1.0)
    return found


def test_planted_families_are_found_largest_first() -> None:
    found = group(families([2, 5, 3], 0.6, 0.05))
    assert found.labels.tolist() == [2, 2, 0, 0, 0, 0, 0, 1, 1, 1]
    assert found.silhouette is not None
    assert found.silhouette > 0.4
    assert found.similarity == pytest.approx(np.full(10, 0.6), abs=0.05)


def test_in_order_adapters_of_a_group_and_alike_ones_stand_together() -> None:
    vectors = np.array([[1.0, 0.0], [0.0, 1.0], [0.9, 0.3], [0.2, 1.0], [1.0, 0.02], [0.05, 1.0]])
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T
    labels = group(cosines, count=2).labels
    order = in_order(cosines, labels)
    assert sorted(order) == list(range(6))
    assert list(labels[order]) == [0, 0, 0, 1, 1, 1]
    first = list(order[:3])
    assert abs(first.index(0) - first.index(4)) == 1, "the two most alike are neighbors"
    assert list(in_order(np.ones((1, 1)), np.zeros(1, dtype=np.int64))) == [0]


def test_adapters_without_families_are_one_group() -> None:
    found = group(families([1] * 12, 1.0, 0.02))
    assert set(found.labels.tolist()) == {0}
    assert found.silhouette is None


def test_a_count_is_kept() -> None:
    for count in (1, 2, 4, 9):
        found = group(families([3, 3, 3], 0.6, 0.1), count)
        assert len(set(found.labels.tolist())) == count
    assert set(group(families([2], 0.6, 0.1), 5).labels.tolist()) == {0, 1}
    assert group(np.ones((1, 1))).labels.tolist() == [0]


def test_an_outlier_stays_alone() -> None:
    cosines_ = families([4, 4, 1], 0.6, 0.05)
    cosines_[8, :4] = cosines_[:4, 8] = 0.12  # nearest to the first family, and far from it
    forced = group(cosines_, 2)
    assert forced.labels[8] == forced.labels[0]
    apart = group(cosines_, 2, alone_below=0.3)
    assert np.bincount(apart.labels).tolist() == [4, 4, 1]
    assert (apart.labels[8], apart.similarity[8]) == (2, 1.0)


def test_silhouette_is_that_of_scikit_learn() -> None:
    from sklearn.metrics import silhouette_score

    cosines_ = families([4, 2, 1, 5], 0.5, 0.2)
    found = group(cosines_, 4)
    distances = 1 - cosines_
    np.fill_diagonal(distances, 0)
    wanted = silhouette_score(distances, found.labels, metric="precomputed")
    assert found.silhouette == pytest.approx(wanted, abs=1e-12)
