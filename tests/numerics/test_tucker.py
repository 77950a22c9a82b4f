"""What the directions that adapters share must be, whatever adapters they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lego_ray.numerics.decompositions.core_space import CoreSpace, pool_bases
from lego_ray.numerics.decompositions.tucker import GAIN, tucker
from lego_ray.numerics.msu import msu_rows
from tests.numerics.factors import factors

ROUNDING = 1e-12


def members_of(ranks: list[int]) -> list[Tensor]:
    return list(torch.split(torch.arange(sum(ranks)), ranks))


def bases_of(seed: int, ranks: list[int], d_in: int, d_out: int) -> CoreSpace:
    rows = [msu_rows(*factors(seed + t, r, d_in, d_out), 1.0) for t, r in enumerate(ranks)]
    return pool_bases(torch.cat(rows), d_in)


def kept(space: CoreSpace, members: list[Tensor]) -> float:
    return sum(float(core.square().sum()) for core in space.cores(members))


def is_orthonormal(basis: Tensor) -> bool:
    return torch.allclose(
        basis.T @ basis, torch.eye(basis.shape[1], dtype=basis.dtype), atol=ROUNDING
    )


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000),
    st.lists(st.integers(1, 6), min_size=1, max_size=5),
    st.integers(1, 20),
    st.integers(1, 20),
    st.integers(1, 9),
)
def test_bases_are_orthonormal_and_nothing_near_keeps_more(
    seed: int, ranks: list[int], d_in: int, d_out: int, k: int
) -> None:
    space, members = bases_of(seed, ranks, d_in, d_out), members_of(ranks)
    found = tucker(space, members, k)
    assert is_orthonormal(found.u)
    assert is_orthonormal(found.v)
    assert found.u.shape[1] <= k
    assert found.v.shape[1] <= k
    # Coordinates are those of the projected MSUs.
    assert torch.allclose(found.a, found.v.T @ space.v @ space.a, atol=ROUNDING * 100)
    # One more exact half step gains no more than two rounds are let off with.
    mine = kept(found, members)
    beside = torch.cat([space.b[:, at] @ found.a[:, at].T for at in members], dim=1)
    best = float(torch.linalg.svdvals(beside)[:k].square().sum())
    assert best - mine <= 4 * GAIN * kept(space, members) + ROUNDING * mine


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 3, 6])
def test_it_keeps_more_than_the_tensors_own_singular_vectors(k: int) -> None:
    ranks = [4, 6, 5, 2]
    space, members = bases_of(0, ranks, 30, 25), members_of(ranks)
    updates = [(space.u @ core @ space.v.T).numpy() for core in space.cores(members)]
    v = np.linalg.svd(np.vstack(updates), full_matrices=False)[2][:k].T
    u = np.linalg.svd(np.hstack(updates), full_matrices=False)[0][:, :k]
    start = sum(float(np.linalg.norm(u.T @ w @ v) ** 2) for w in updates)
    assert kept(tucker(space, members, k), members) > 1.01 * start


@pytest.mark.slow
def test_directions_come_by_what_they_keep() -> None:
    ranks = [4, 6, 5, 2]
    space, members = bases_of(0, ranks, 30, 25), members_of(ranks)
    cores = list(tucker(space, members, 4).cores(members))
    for axis in (0, 1):
        lengths = sum(core.square().sum(dim=axis) for core in cores)
        assert isinstance(lengths, Tensor)
        assert torch.equal(lengths.sort(descending=True).values, lengths)
