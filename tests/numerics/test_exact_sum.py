"""The dense sum: right to float32's products, and the same bits however the pool is cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lego_ray.numerics import norms
from lego_ray.numerics.exact_sum import SplitGrid, dense_sum
from lego_ray.numerics.msu import lengths
from lego_ray.numerics.pool import Pool
from lego_ray.numerics.shards.shard import Shard
from lego_ray.numerics.shards.spread import LocalShards, SpreadPool
from tests.numerics.factors import update

# Two parts of 21 bits at these sizes, against the largest products.
SPLIT_ROUNDING = 2.0**-38


def values(n: int, d: int) -> torch.Tensor:
    """Columns and rows of unlike sizes, so that small values stand beside large ones."""
    generator = torch.Generator().manual_seed(n)
    rows = torch.randn(n, d, generator=generator)
    rows *= 10.0 ** torch.randint(-4, 3, (n, 1), generator=generator)
    return rows * 10.0 ** torch.randint(-3, 4, (1, d), generator=generator)


def spread(rows: torch.Tensor, d_in: int, cuts: list[int]) -> SpreadPool:
    shards = []
    for part in torch.tensor_split(rows, cuts):
        at = torch.zeros(len(part), dtype=torch.int64)
        shards.append(Shard.of(Pool(part.contiguous(), d_in, at, at, lengths(part))))
    return SpreadPool(LocalShards(shards))


@pytest.mark.parametrize("block", [7, 1_000_000])
def test_cuts_and_order_change_no_bit(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    rows = values(700, 31)
    wanted = dense_sum(spread(rows, 18, []))
    monkeypatch.setattr(norms, "BLOCK_VALUES", block)
    for cuts in ([], [1], [300, 301, 650]):
        assert torch.equal(dense_sum(spread(rows, 18, cuts)), wanted)
    order = torch.randperm(700, generator=torch.Generator().manual_seed(1))
    assert torch.equal(dense_sum(spread(rows[order], 18, [200])), wanted)


def test_it_is_the_sum() -> None:
    rows = values(700, 31)
    gap = np.abs(dense_sum(spread(rows, 18, [100])).numpy() - update(rows, 18))
    peaks = rows.abs().amax(dim=0).double().numpy()
    assert (gap <= SPLIT_ROUNDING * 700 * np.outer(peaks[18:], peaks[:18])).all()
    assert not dense_sum(spread(torch.zeros(9, 31), 18, [4])).any()


@pytest.mark.parametrize("n", [2, 1000, 200_000])
def test_sums_of_products_of_parts_are_within_53_bits(n: int) -> None:
    grid = SplitGrid.of(torch.tensor([3.0, 1.0]), n)
    worst, rest = grid.split(torch.tensor([[3.0, 1.0]]), slice(0, 2))
    most = n * float((worst / grid.quanta).prod())
    assert most <= 2.0**53
    assert not rest.any()
    whole = torch.tensor([[2.7182817, -0.57721567]])
    first, second = grid.split(whole, slice(0, 2))
    assert float((first + second - whole.double()).abs().max()) <= 4 * 2.0 ** (-2 * grid.bits)
