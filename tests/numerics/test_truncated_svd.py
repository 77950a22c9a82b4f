"""Triangular factors by either way, and sums that keep their digits where updates cancel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lego_ray.numerics.decompositions.truncated_svd import MOST_SQUARED, svd_of_sum, triangular
from tests.numerics.factors import update

# Products of float64 matrices of this size.
ROUNDING = 1e-13
# What `triangular` promises of Cholesky's way; Householder's is right to float64.
ORTHONORMAL = 2.0**-53 * MOST_SQUARED
D_IN, D_OUT = 60, 50


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def leaning(gap: float) -> Tensor:
    """Twelve rows, of which six are nearly the other six."""
    first = random(6, D_IN)
    return torch.cat([first, first + gap * random(6, D_IN, seed=1)])


CASES = {
    "apart": (random(12, D_IN), True),
    "one": (random(1, D_IN), True),
    "square": (random(D_IN, D_IN), True),
    "of very unlike lengths": (
        random(12, D_IN) * 10.0 ** -torch.arange(12.0)[:, None].double(),
        True,
    ),
    "a little alike": (leaning(1e-2), True),
    "much alike": (leaning(1e-6), False),
    "the same": (leaning(0.0), False),
    "more than they are wide": (random(D_IN + 5, D_IN), False),
    "one of zeros": (torch.cat([random(5, D_IN), torch.zeros(1, D_IN).double()]), False),
    "zeros": (torch.zeros(5, D_IN).double(), False),
}


@pytest.mark.parametrize("case", CASES)
def test_a_factor_is_exact_and_its_basis_orthonormal(case: str) -> None:
    half, by_cholesky = CASES[case]
    q, r, turn = triangular(half)
    assert (turn is not None) == by_cholesky
    basis = q if turn is None else q @ turn
    m = min(half.shape)
    assert basis.shape == (D_IN, m)
    assert r.shape == (m, len(half))
    lengths = half.norm(dim=1)
    gaps = (basis @ r - half.T).norm(dim=0)
    assert bool((gaps <= 100 * ROUNDING * lengths).all())
    eye = torch.eye(m, dtype=torch.float64)
    assert float((basis.T @ basis - eye).abs().max()) <= (ORTHONORMAL if by_cholesky else ROUNDING)


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
