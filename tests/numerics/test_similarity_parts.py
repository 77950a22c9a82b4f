"""What sites say one by one is what they say together, whole or in shards."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from lego_ray.methods.similarity import MOST_EXACT, Similarity
from lego_ray.numerics.msu import msu_rows
from lego_ray.numerics.pool import Pool, pool_of
from lego_ray.numerics.shards.spread import LocalShards
from lego_ray.numerics.similarity.parts import SimilarityPart, SimilaritySums, added, part_of
from tests.numerics.factors import factors, update

D_IN, D_OUT = 96, 64


def site(seed: int, members: list[int], rank: int = 5) -> tuple[Pool, dict[int, np.ndarray]]:
    """A pool of some adapters, odd ones alike, and their dense updates."""
    shared = msu_rows(*factors(seed, rank, D_IN, D_OUT), 1.0)
    parts = []
    for number in members:
        own = msu_rows(*factors(1000 * seed + number + 1, rank, D_IN, D_OUT), 1.0)
        parts.append((number, torch.cat([shared, own]) if number % 2 else own))
    return pool_of(parts, D_IN), {number: update(rows, D_IN) for number, rows in parts}


def cosines_of(parts: Iterable[SimilarityPart], n: int) -> np.ndarray:
    sums = SimilaritySums(n)
    for part in parts:
        sums.add(part)
    return sums.cosines()


def dense_cosines(sites: list[dict[int, np.ndarray]], n: int) -> np.ndarray:
    products = np.zeros((n, n))
    for found in sites:
        for one in found:
            for two in found:
                products[one, two] += (found[one] * found[two]).sum()
    norms = np.sqrt(np.maximum(products.diagonal(), 1e-300))
    return products / norms[:, None] / norms


def test_parts_add_up_to_the_cosines_of_whole_updates() -> None:
    pools, dense = zip(
        *(site(s, m) for s, m in enumerate([[0, 1, 3], [0, 1, 3], [1, 2]])), strict=True
    )
    parts = added(part_of(pool, exact=True, seed=0) for pool in pools)
    assert [part.members.tolist() for part in parts] == [[0, 1, 3], [1, 2]]
    found = cosines_of(parts, 5)  # the last has no site
    wanted = dense_cosines(list(dense), 5)
    np.fill_diagonal(wanted, 1.0)
    assert np.allclose(found, wanted, rtol=0, atol=2e-9)
    assert np.array_equal(found, found.T)
    assert found[4].tolist() == [0, 0, 0, 0, 1]


def test_sketches_and_products_go_together() -> None:
    pools, dense = zip(*(site(s, [0, 1, 2, 3]) for s in range(24)), strict=True)
    parts = [part_of(pool, exact=s % 2 == 0, seed=s) for s, pool in enumerate(pools)]
    assert [part.exact for part in added(parts)] == [True, False]
    wanted = dense_cosines(list(dense), 4)
    assert wanted[1, 3] > 0.4  # kin are there to be found
    assert np.abs(cosines_of(parts, 4) - wanted).max() < 0.1


@pytest.mark.parametrize("cut", [[2, 2], [1, 3], [4]])
def test_a_pool_in_shards_is_sketched_to_the_same_bits(cut: list[int]) -> None:
    pool, _ = site(7, [0, 2, 3, 5])
    bounds = np.cumsum([0, *cut])
    shards = []
    for start, end in pairwise(bounds):
        numbers = torch.tensor([0, 2, 3, 5][start:end])
        at = torch.isin(pool.adapters, numbers)
        fields = ("rows", "adapters", "ranks", "lengths")
        shards.append(replace(pool, **{name: getattr(pool, name)[at] for name in fields}))
    work = Similarity(6, 5)
    spread = work.measured_spread(LocalShards([work.shard(shard) for shard in shards]), seed=3)
    whole = work.measured(pool, "sketches", seed=3)
    assert np.array_equal(spread.members, whole.members)
    assert np.array_equal(spread.values, whole.values)
    assert not spread.exact


def test_the_number_of_msus_says_which_way() -> None:
    work = Similarity(1000, 4)
    assert [r.name for r in work.routes(MOST_EXACT, 64, 64, 1)] == ["products"]
    [sketches] = work.routes(MOST_EXACT + 1, 64, 64, 1)
    assert sketches.name == "sketches"
    assert sketches.costs.workspace_bytes > 3 * 8 * 64**2 * (MOST_EXACT // 4)
