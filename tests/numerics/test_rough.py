"""Products of rounded rows: exact in any order and any shards, and near to those of the rows."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from lego_ray.numerics.kmeans.compare_means import cluster_parts, compare_scaled_means
from lego_ray.numerics.kmeans.lloyd import in_one_shard, rough_products
from lego_ray.numerics.kmeans.partial_sums import centroids_of
from lego_ray.numerics.kmeans.rough import LONGEST, in_units, rough_halves
from lego_ray.numerics.msu import lengths
from lego_ray.numerics.norms import UpdateComparison, compare_updates
from lego_ray.numerics.pool import Pool
from lego_ray.numerics.shards.shard import Shard
from lego_ray.numerics.shards.spread import LocalShards, SpreadPool

N, D_IN, D_OUT = 300, 200, 56


def cloud(seed: int = 0) -> Tensor:
    """Rows of very different lengths, and columns too; with a row of zeros and one with a zero half."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(N, D_IN + D_OUT, generator=generator)
    rows *= torch.logspace(-3, 3, N)[:, None] * torch.logspace(-1, 1, D_IN + D_OUT)
    rows[5], rows[6, D_IN:] = 0, 0
    return rows[torch.argsort(lengths(rows), descending=True, stable=True)].contiguous()


def pool_of(rows: Tensor, start: int = 0, end: int = N) -> Pool:
    at = torch.arange(start, end)
    return Pool(rows[start:end], D_IN, at, torch.zeros_like(at), lengths(rows[start:end]))


@pytest.mark.parametrize("width", [1, 7, 200, 5000])
def test_no_half_is_longer_than_what_float32_holds_exactly(width: int) -> None:
    generator = torch.Generator().manual_seed(width)
    rows = torch.cat(
        [
            torch.randn(50, width, generator=generator) * torch.logspace(-35, 35, 50)[:, None],
            torch.full((1, width), 2.0**-3),  # a length that is a power of two, or just not
            torch.full((1, width), 1e-42),
            torch.zeros(1, width),
        ]
    )
    rounded, units = in_units(rows)
    assert torch.equal(rounded, rounded.round())
    assert float(rounded.double().square().sum(dim=1).max()) <= LONGEST**2
    gaps = (rounded.double() * units[:, None] - rows.double()).abs()
    assert bool((gaps <= units[:, None] / 2).all())
    finest = rounded[:50].double().square().sum(dim=1).sqrt()
    assert float(finest[rows[:50].abs().amax(dim=1) > 1e-20].min()) > LONGEST / 2.2


def test_products_are_exact_in_any_order_of_addition() -> None:
    rows = cloud()
    found = rough_halves(rows, D_IN)
    for half, products in ((rows[:, :D_IN], found.a), (rows[:, D_IN:], found.b)):
        rounded, _ = in_units(half)
        assert torch.equal(products.double(), rounded.double() @ rounded.double().T)
        mixed = torch.randperm(half.shape[1], generator=torch.Generator().manual_seed(1))
        assert torch.equal(products, rounded[:, mixed] @ rounded[:, mixed].T)


def test_products_are_near_to_those_of_the_rows() -> None:
    rows = cloud()
    wide = rows.double()
    norms = wide.norm(dim=1)
    gaps = (rough_halves(rows, D_IN).products() - wide @ wide.T).abs()
    assert bool((gaps <= 2.0**-9 * norms[:, None] * norms).all())


@pytest.mark.parametrize("cuts", [[], [7], [1, 2, 290]])
def test_shards_give_the_same_products(cuts: list[int]) -> None:
    rows = cloud()
    wanted = rough_halves(rows, D_IN)
    bounds = [0, *cuts, N]
    shards = [Shard.of(pool_of(rows, start, end)) for start, end in itertools.pairwise(bounds)]
    sample = torch.randperm(N, generator=torch.Generator().manual_seed(2))[:280]
    found = rough_products(SpreadPool(LocalShards(shards)), sample)
    assert torch.equal(found.a, wanted.a[sample][:, sample])
    assert torch.equal(found.b, wanted.b[sample][:, sample])
    assert torch.equal(found.units_a, wanted.units_a[sample])
    assert torch.equal(found.products(), wanted.products()[sample][:, sample])


def compared(rows: Tensor, sign: float) -> tuple[UpdateComparison | None, UpdateComparison]:
    """Scaled means against the sum, by rounded products and by the rows."""
    pool = in_one_shard(Shard.of(pool_of(rows)))
    rows = pool.take(torch.arange(N), "rows")  # in the pool's order
    labels = torch.arange(N) % 9
    means = centroids_of(rows, labels)
    factors = torch.linspace(0.5, 2.0, 9, dtype=torch.float64)
    scaled = means * factors[:, None]
    scaled[:, D_IN:] *= sign
    parts = cluster_parts(pool, labels, means)
    rough = rough_products(pool, torch.arange(N))
    found = compare_scaled_means(rough, parts, labels, means, D_IN, factors, sign)
    return found, compare_updates(scaled, rows, D_IN)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("noise", [1.0, 1e-2, 0.0])
def test_scaled_means_are_compared_with_the_sum(sign: float, noise: float) -> None:
    generator = torch.Generator().manual_seed(3)
    heaps = torch.randn(9, D_IN + D_OUT, generator=generator)[torch.arange(N) % 9]
    rows = heaps + noise * torch.randn(N, D_IN + D_OUT, generator=generator)
    found, wanted = compared(rows, sign)
    assert found is not None
    assert found.merged == pytest.approx(wanted.merged, rel=1e-10)
    assert found.inner == pytest.approx(wanted.inner, rel=1e-10)
    assert found.total == pytest.approx(wanted.total, rel=1e-4)
    assert found.relative_error() == pytest.approx(wanted.relative_error(), rel=1e-4)


def test_a_sum_that_cancels_is_left_to_float64() -> None:
    rows = torch.randn(N, D_IN + D_OUT, generator=torch.Generator().manual_seed(4))
    rows[1::2, :D_IN], rows[1::2, D_IN:] = rows[::2, :D_IN], -rows[::2, D_IN:]
    assert compared(rows, 1.0)[0] is None
