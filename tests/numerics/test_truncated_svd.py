"""Triangular factors by either way, and sums that keep their digits where updates cancel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lego_ray.numerics.decompositions.truncated_svd import (
    MOST_SQUARED,
    NOTHING,
    SvdOfRows,
    svd_of_sum,
    triangular,
)
from tests.numerics.factors import update

# Products of float64 matrices of this size.
ROUNDING = 1e-13
# What is promised of terms that are more than rounding of float32.
ORTHONORMAL = 2.0**-53 * MOST_SQUARED
D_IN, D_OUT = 60, 50


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def leaning(gap: float) -> Tensor:
    """Twelve rows, of which six are nearly the other six."""
    first = random(6, D_IN)
    return torch.cat([first, first + gap * random(6, D_IN, seed=1)])


CASES = {
    "apart": random(12, D_IN),
    "one": random(1, D_IN),
    "square": random(D_IN, D_IN),
    "of very unlike lengths": random(12, D_IN) * 10.0 ** -torch.arange(12.0)[:, None].double(),
    "a little alike": leaning(1e-2),
    "much alike": leaning(1e-6),
    "the same": leaning(0.0),
    "more than they are wide": random(D_IN + 5, D_IN),
    "one of zeros": torch.cat([random(5, D_IN), torch.zeros(1, D_IN).double()]),
    "zeros": torch.zeros(5, D_IN).double(),
}


@pytest.mark.parametrize("case", CASES)
def test_a_factor_has_the_rows_products(case: str) -> None:
    half = CASES[case]
    found = triangular(half)
    assert found.shape == (min(half.shape), len(half))
    lengths = half.norm(dim=1)
    gaps = (found.T @ found - half @ half.T).abs()
    assert bool((gaps <= ROUNDING * lengths[:, None] * lengths).all())


@pytest.mark.parametrize("case", CASES)
def test_the_terms_of_a_sum_are_orthonormal_and_add_up_to_it(case: str) -> None:
    half = CASES[case].float()
    rows = torch.cat([half, random(len(half), D_OUT, seed=2).float()], dim=1)
    found = svd_of_sum(rows, D_IN)
    dense = update(rows, D_IN)
    wanted = np.linalg.svd(dense, compute_uv=False)
    kept = found.n_terms
    assert np.allclose(found.s.numpy(), wanted[: len(found.s)], rtol=0, atol=1e-12 * wanted[0])
    merged = found.rows(kept)
    assert np.linalg.norm(update(merged, D_IN) - dense) <= 2e-6 * np.linalg.norm(dense)
    if wanted[0]:
        for side in (merged[:, :D_IN], merged[:, D_IN:]):
            gram = side @ side.T / found.s[:kept].sqrt() / found.s[:kept, None].sqrt()
            assert float((gram - torch.eye(kept, dtype=torch.float64)).abs().max()) <= ORTHONORMAL
    # Terms that are rounding of float64 alone are zeros.
    assert not found.rows(len(rows))[found.s <= NOTHING * found.s[0]].any()


def test_no_basis_is_made() -> None:
    """What is held of float64 has the number of rows for its sides; the halves are the pool itself."""
    rows = random(12, D_IN + D_OUT).float()
    found = svd_of_sum(rows, D_IN)
    assert isinstance(found, SvdOfRows)
    assert found.q_a is found.q_b is None
    assert {tuple(each.shape) for each in (found.r_a, found.r_b, found.u, found.v)} == {(12, 12)}
    storage = rows.untyped_storage().data_ptr()
    assert {each.untyped_storage().data_ptr() for each in (found.a, found.b)} == {storage}


@pytest.mark.parametrize("gap", [1.0, 1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("k", [3, 12])
def test_updates_that_nearly_cancel_keep_their_digits(k: int, gap: float) -> None:
    """Two adapters whose sum is a small part of either: decomposed, it is right to its own size."""
    a, b = leaning(gap), random(12, D_OUT, seed=2)
    b[6:] = -b[:6]
    rows = torch.cat([a, b], dim=1).float()
    u, s, vt = np.linalg.svd(update(rows, D_IN))
    wanted = (u[:, :k] * s[:k]) @ vt[:k]
    found = update(svd_of_sum(rows, D_IN).rows(k), D_IN)
    # Of a sum that is 1e-6 of its parts, float64 leaves ten digits.
    assert np.linalg.norm(found - wanted) <= 1e-9 * np.linalg.norm(wanted)
