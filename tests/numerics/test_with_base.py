"""Pairs that are computed with a base model's weight, against dense float64 arithmetic."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lego_ray.numerics.decompositions.with_base import (
    exact_pair,
    initial_pair,
    nearest_pair,
    relative_error,
    rescaled,
)

# Pairs are rounded to float32 once.
ROUNDED: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-6}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(9, 14), (14, 9), (9, 9)])
@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_what_training_began_with_is_the_weight_s_own(init: str, shape: tuple[int, int]) -> None:
    weight = random(*shape)
    found = initial_pair(init, weight, 4)
    assert found is not None
    a, b = found.a, found.b
    if init == "pissa":
        u, s, vh = torch.linalg.svd(weight, full_matrices=False)
        wanted = (u[:, :4] * s[:4]) @ vh[:4]
    else:
        q, r = torch.linalg.qr(weight)
        wanted = q[:, :4] @ r[:4]
    torch.testing.assert_close(b @ a, wanted)
    stored = (random(4, shape[1], seed=1).float(), random(shape[0], 4, seed=2).float())
    rank = min(8, *shape)
    pair = exact_pair(stored, found, 0.7, rank)
    assert (pair.a.shape, pair.b.shape) == ((rank, shape[1]), (shape[0], rank))
    update = 0.7 * stored[1].double() @ stored[0].double() - wanted
    torch.testing.assert_close((pair.b @ pair.a).double(), update, rtol=1e-5, atol=1e-5)
    assert pair.lost == 0
    torch.testing.assert_close(pair.total, float(update.square().sum()))


def test_a_start_that_is_not_defined_is_none() -> None:
    assert initial_pair("pissa", torch.eye(6, dtype=torch.float64), 3) is None
    assert initial_pair("pissa", torch.eye(6, dtype=torch.float64), 6) is not None
    thin = random(6, 2) @ random(2, 6, seed=1)
    assert initial_pair("pissa", thin, 3) is not None  # the whole weight, whichever term is third
    twice = random(6, 6)
    twice[:, 1] = twice[:, 0]
    assert initial_pair("olora", twice, 3) is None


def test_an_update_within_the_rounding_of_its_start_is_in_doubt() -> None:
    """As of an adapter that was saved before training."""
    u, v = (torch.linalg.qr(random(8, 8, seed=seed))[0] for seed in (1, 2))
    sizes = torch.tensor([3.0, 2.0, 1.00001, 1.0, 0.5, 0.4, 0.3, 0.2], dtype=torch.float64)
    weight = (u * sizes) @ v
    found = initial_pair("pissa", weight, 3)
    assert found is not None
    pu, ps, pv = torch.linalg.svd(weight.float())
    start = ((pu[:, :3] * ps[:3]) @ pv[:3]).double()
    distance = float((found.b @ found.a - start).norm())
    assert distance <= found.doubt <= 1e4 * distance
    untrained = exact_pair((found.a.float(), found.b.float()), found, 1.0, 6)
    assert relative_error(untrained.lost, untrained.total) > 1
    trained = exact_pair((random(3, 8).float(), random(8, 3).float()), found, 1.0, 6)
    assert 1e-3 < relative_error(trained.lost, trained.total) < 0.1


@pytest.mark.parametrize("shape", [(9, 14), (14, 9), (9, 9)])
def test_the_nearest_pair_is_that_of_the_svd(shape: tuple[int, int]) -> None:
    update = random(*shape)
    u, s, vh = torch.linalg.svd(update, full_matrices=False)
    for rank in (1, 4, 9):
        pair = nearest_pair(update, rank)
        nearest = (u[:, :rank] * s[:rank]) @ vh[:rank]
        torch.testing.assert_close((pair.b @ pair.a).double(), nearest, **ROUNDED)
        error = float(s[rank:].square().sum().sqrt() / s.square().sum().sqrt())
        assert relative_error(pair.lost, pair.total) == pytest.approx(error, abs=1e-7)
        lengths = pair.a.norm(dim=1), pair.b.norm(dim=0)
        torch.testing.assert_close(*lengths)
        assert bool((lengths[0].diff() <= 0).all())
    assert nearest_pair(update, 9).lost == 0


def test_nothing_is_a_pair_of_zeros() -> None:
    pair = nearest_pair(torch.zeros(4, 6, dtype=torch.float64), 2)
    assert not pair.a.any()
    assert not pair.b.any()
    assert relative_error(pair.lost, pair.total) == 0


def test_rows_get_the_lengths_of_their_magnitudes() -> None:
    weight, stored = random(5, 7), (random(2, 7, seed=1), random(5, 2, seed=2))
    magnitude = torch.arange(1, 6).double()
    update = rescaled(weight, stored, 1.5, magnitude)
    torch.testing.assert_close((weight + update).norm(dim=1), magnitude)
    direction = weight + 1.5 * stored[1] @ stored[0]
    assert bool(
        (torch.nn.functional.cosine_similarity(weight + update, direction) > 1 - 1e-12).all()
    )
    weight[3] = 0
    stored[1][3] = 0
    assert not torch.isfinite(rescaled(weight, stored, 1.5, magnitude)[3]).any()
