"""What each geometry option makes a merge blind to, end to end through `Lego.solve`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tests.methods.solving import Adapters, solve
from tests.numerics.factors import D_IN, update, zoo

# Factors of another gauge are rounded to float32, and a random mix has a condition number of its own.
GAUGE_ROUNDING = 2.0**-16

ONE_BY_ONE = ("flips", "rescaling")
# Options, and the gauges they promise to remove.
PROMISES = [
    ({"align_signs": True}, ("flips",)),
    ({"balance": True}, ("rescaling",)),
    ({"balance": True, "align_signs": True}, ONE_BY_ONE),
    ({"distance": "rank-one"}, ONE_BY_ONE),
    ({"basis": "svd"}, (*ONE_BY_ONE, "mix")),
    ({"basis": "svd", "distance": "rank-one"}, (*ONE_BY_ONE, "mix")),
]


def mixed(
    adapters: Adapters, matrix_of: Callable[[int, torch.Generator], torch.Tensor]
) -> Adapters:
    """The same updates with another factor pair each: `(M^-1 A, B M)`."""
    generator = torch.Generator().manual_seed(9)
    out = []
    for a, b, s in adapters:
        m = matrix_of(len(a), generator).double()
        out.append(((torch.linalg.inv(m) @ a.double()).float(), (b.double() @ m).float(), s))
    return out


def flips(r: int, generator: torch.Generator) -> torch.Tensor:
    return torch.diag(1.0 - 2.0 * torch.randint(2, (r,), generator=generator))


def rescaling(r: int, generator: torch.Generator) -> torch.Tensor:
    return torch.diag(2.0 ** torch.randint(-3, 4, (r,), generator=generator))


def mix(r: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(r, r, generator=generator) + 2 * torch.eye(r)


GAUGES = {"flips": flips, "rescaling": rescaling, "mix": mix}


def gap(adapters: Adapters, gauge: str, k: int, **options: Any) -> float:
    wanted = update(solve(adapters, "lego", k, **options).rows, D_IN)
    found = update(solve(mixed(adapters, GAUGES[gauge]), "lego", k, **options).rows, D_IN)
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("k", [2, 5])
@pytest.mark.parametrize(
    ("options", "gauge"),
    [(options, gauge) for options, gauges in PROMISES for gauge in gauges],
    ids=str,
)
def test_the_merged_update_does_not_see_it(options: dict[str, Any], gauge: str, k: int) -> None:
    assert gap(zoo([4, 7, 2, 5]), gauge, k, **options) <= GAUGE_ROUNDING


@pytest.mark.parametrize("gauge", GAUGES)
def test_without_an_option_it_is_seen(gauge: str) -> None:
    """Or the equalities above would say nothing."""
    assert gap(zoo([4, 7, 2, 5]), gauge, 5) > 0.1


def test_aligned_signs_are_the_same_to_the_bit() -> None:
    adapters = zoo([4, 7, 2, 5])
    first, second = (
        solve(each, "lego", 5, align_signs=True) for each in (adapters, mixed(adapters, flips))
    )
    assert torch.equal(second.rows, first.rows)


@pytest.mark.parametrize("gauge", GAUGES)
def test_svd_of_the_sum_sees_no_gauge_at_all(gauge: str) -> None:
    adapters = zoo([4, 7, 2, 5])
    wanted = update(solve(adapters, "svd", 5).rows, D_IN)
    found = update(solve(mixed(adapters, GAUGES[gauge]), "svd", 5).rows, D_IN)
    assert np.linalg.norm(found - wanted) <= GAUGE_ROUNDING * np.linalg.norm(wanted)
