import numpy as np
import pytest
import torch

from lego_ray.numerics.decompositions import gauge
from lego_ray.numerics.msu import msu_rows
from tests.numerics.factors import D_IN, factors, update

# QR and SVD in float64, results rounded to float32 once.
ROUNDING = 2.0**-20

MOVES = {
    "balance": lambda rows: gauge.balance(rows, D_IN),
    "align_signs": lambda rows: gauge.align_signs(rows, D_IN),
    "svd_basis": lambda rows: gauge.svd_basis(rows, D_IN),
}


def rows_of(seed: int = 0, rank: int = 6) -> torch.Tensor:
    a, b = factors(seed, rank)
    return msu_rows(a, b, 2.0)


@pytest.mark.parametrize("move", MOVES)
def test_the_update_is_kept(move: str) -> None:
    rows = rows_of()
    wanted = update(rows, D_IN)
    got = update(MOVES[move](rows), D_IN)
    assert np.linalg.norm(got - wanted) <= ROUNDING * np.linalg.norm(wanted)


@pytest.mark.parametrize("move", MOVES)
def test_the_input_is_not_written_to(move: str) -> None:
    rows = rows_of()
    before = rows.clone()
    MOVES[move](rows)
    assert torch.equal(rows, before)


def test_balanced_halves_are_equally_long_whatever_the_gauge() -> None:
    rows = rows_of()
    rescaled = rows.clone()
    factor = torch.tensor([8.0, 0.125, 1.0, 64.0, 2.0, 0.5])[:, None]
    rescaled[:, :D_IN] *= factor
    rescaled[:, D_IN:] /= factor
    balanced = gauge.balance(rows, D_IN)
    assert torch.allclose(balanced[:, :D_IN].norm(dim=1), balanced[:, D_IN:].norm(dim=1))
    assert torch.allclose(gauge.balance(rescaled, D_IN), balanced, rtol=1e-6, atol=0)


def test_a_zero_half_balances_to_zero_and_not_to_nan() -> None:
    rows = rows_of()
    rows[2, D_IN:] = 0  # B starts at zero in training
    rows[3] = 0
    balanced = gauge.balance(rows, D_IN)
    assert not bool(torch.isnan(balanced).any())
    assert not bool(balanced[2:4].any())
    normalized = gauge.normalize_halves(rows, D_IN)
    assert not bool(torch.isnan(normalized).any())
    assert not bool(normalized[3].any())


def test_sign_flips_disappear() -> None:
    rows = rows_of()
    flips = torch.tensor([1.0, -1, -1, 1, -1, 1])[:, None]
    assert torch.equal(gauge.align_signs(flips * rows, D_IN), gauge.align_signs(rows, D_IN))


def test_any_invertible_mix_of_ranks_disappears_in_the_svd_basis() -> None:
    a, b = factors(0, 6)
    mix = torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    mixed_a = (torch.linalg.inv(mix) @ a.double()).float()
    mixed_b = (b.double() @ mix).float()
    first = gauge.svd_basis(msu_rows(a, b, 2.0), D_IN)
    second = gauge.svd_basis(msu_rows(mixed_a, mixed_b, 2.0), D_IN)
    assert torch.allclose(first, second, atol=1e-4 * float(first.abs().max()))


def test_permuted_ranks_have_the_same_svd_basis_to_the_bit() -> None:
    rows = rows_of()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    assert torch.equal(gauge.svd_basis(rows[order], D_IN), gauge.svd_basis(rows, D_IN))


def test_svd_basis_of_a_rank_above_the_site() -> None:
    rows = torch.randn(8, 3 + 20, generator=torch.Generator().manual_seed(0))  # d_in of 3
    moved = gauge.svd_basis(rows, 3)
    assert moved.shape == rows.shape
    wanted = update(rows, 3)
    assert np.linalg.norm(update(moved, 3) - wanted) <= ROUNDING * np.linalg.norm(wanted)


def test_the_representative_is_the_nearest_rank_one_to_the_mean_update() -> None:
    rows = rows_of(rank=5)
    mean = update(rows, D_IN) / 5
    u, s, vt = np.linalg.svd(mean)
    row = gauge.rank_one_representative(rows, D_IN)[None]
    assert np.linalg.norm(update(row, D_IN) - s[0] * np.outer(u[:, 0], vt[0])) <= 1e-12 * s[0]
    assert torch.allclose(row[:, :D_IN].norm(), row[:, D_IN:].norm())
