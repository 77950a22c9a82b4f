import numpy as np
import pytest
import torch

from lego_ray.errors import ShapeMismatch
from lego_ray.numerics.msu import canonical_order, lengths, msu_rows, split_rows
from tests.numerics.factors import D_IN, factors, pool_from, update, zoo

# Two float32 roundings, of sqrt(s) and of the product, on each half.
ROUNDING = 4 * 2.0**-23


@pytest.mark.parametrize("scaling", [0.25, 2.0, 16 / 8**0.5, -1.5])
def test_rows_keep_the_scaled_update(scaling: float) -> None:
    a, b = factors(1, 5)
    wanted = scaling * (b.double() @ a.double()).numpy()
    got = update(msu_rows(a, b, scaling), D_IN)
    assert np.linalg.norm(got - wanted) <= ROUNDING * np.linalg.norm(wanted)


def test_both_halves_carry_the_root_of_the_scaling() -> None:
    a, b = factors(1, 5)
    rows = msu_rows(a, b, 4.0)
    assert torch.equal(rows[:, :D_IN], 2 * a)
    assert torch.equal(rows[:, D_IN:], 2 * b.T)


def test_ranks_of_the_halves_must_agree() -> None:
    a, _ = factors(1, 5)
    _, b = factors(1, 4)
    with pytest.raises(ShapeMismatch, match=r"A has shape \(5, 13\) and B has shape \(9, 4\)"):
        msu_rows(a, b, 1.0)


def test_split_is_the_inverse_of_pooling() -> None:
    a, b = factors(1, 5)
    back_a, back_b = split_rows(msu_rows(a, b, 1.0), D_IN)
    assert torch.equal(back_a, a)
    assert torch.equal(back_b, b)
    assert back_a.is_contiguous()
    assert back_b.is_contiguous()


def test_canonical_order_is_of_the_set_not_of_the_sequence() -> None:
    rows = torch.randn(200, 33, generator=torch.Generator().manual_seed(0))
    rows[7] = rows[11]  # equal rows
    rows[20:24] = 0  # equal lengths, equal rows
    rows[30] = -rows[31]  # equal lengths, other rows
    first = rows[canonical_order(rows, lengths(rows))]
    for seed in range(20):
        shuffled = rows[torch.randperm(200, generator=torch.Generator().manual_seed(seed))]
        assert torch.equal(shuffled[canonical_order(shuffled, lengths(shuffled))], first)


@pytest.mark.parametrize("width", [1, 7, 8, 33, 384, 7680, 9216])
def test_a_length_is_the_same_bits_whichever_rows_stand_beside_it(width: int) -> None:
    rows = torch.randn(40, width, generator=torch.Generator().manual_seed(width))
    together = lengths(rows)
    for pieces in (1, 3, 16):
        apart = torch.cat([lengths(part) for part in torch.split(rows, pieces)])
        assert torch.equal(apart, together)
    backwards = lengths(rows.flip(0).contiguous()).flip(0)
    assert torch.equal(backwards, together)


def test_canonical_order_is_longest_first() -> None:
    rows = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    found = rows[canonical_order(rows, lengths(rows))].norm(dim=1)
    assert bool((found[:-1] >= found[1:]).all())


def test_pool_remembers_where_each_row_came_from() -> None:
    adapters = zoo([3, 1, 4])
    pool = pool_from(adapters)
    assert pool.n == 8
    for row, adapter, rank in zip(pool.rows, pool.adapters, pool.ranks, strict=True):
        a, b, s = adapters[int(adapter)]
        assert torch.equal(row, msu_rows(a, b, s)[int(rank)])
