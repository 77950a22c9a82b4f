"""The methods on singular vectors, against dense float64 computations."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from lego_ray.numerics.elect import thinned
from tests.methods.solving import Adapters, solve
from tests.methods.test_stacked import ties_by_loops
from tests.numerics.factors import D_IN, factors, total, update, zoo

# Rows are rounded to float32 once; an update is a sum of products of two.
ROUNDING = 2.0**-19


def dense(adapter: tuple[torch.Tensor, torch.Tensor, float]) -> np.ndarray:
    return total([adapter])


def polar(matrix: np.ndarray) -> np.ndarray:
    u, _, vt = np.linalg.svd(matrix, full_matrices=False)
    out: np.ndarray = u @ vt
    return out


def tsv_by_dense_svd(adapters: Adapters, terms: list[int]) -> np.ndarray:
    """TSV-Merge as published, of the first so many terms of each adapter."""
    us, ss, vs = [], [], []
    for adapter, k in zip(adapters, terms, strict=True):
        u, s, vt = np.linalg.svd(dense(adapter))
        us.append(u[:, :k])
        ss.append(s[:k])
        vs.append(vt[:k].T)
    out: np.ndarray = (polar(np.hstack(us)) * np.concatenate(ss)) @ polar(np.hstack(vs)).T
    return out


def gap(rows: torch.Tensor, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(update(rows, D_IN) - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize(
    ("ranks", "k", "terms"), [([4, 5, 6], 6, [2, 2, 2]), ([4, 5], 4, [2, 2]), ([3], 2, [2])]
)
def test_tsv_equals_the_dense_computation(ranks: list[int], k: int, terms: list[int]) -> None:
    adapters = zoo(ranks, [2.0, 1.0, -0.5][: len(ranks)])
    found = solve(adapters, "tsv", k)
    assert gap(found.rows, tsv_by_dense_svd(adapters, terms)) <= ROUNDING


def test_tsv_gives_what_is_left_over_to_the_largest() -> None:
    adapters = zoo([4, 4, 4], [1.0, 9.0, 1.0])
    found = solve(adapters, "tsv", 4)
    assert gap(found.rows, tsv_by_dense_svd(adapters, [1, 2, 1])) <= ROUNDING


def test_tsv_keeps_singular_values_and_makes_vectors_orthogonal() -> None:
    adapters = zoo([4, 5, 6])
    found = solve(adapters, "tsv", 6).rows.double()
    for half in (found[:, :D_IN], found[:, D_IN:]):
        products = half @ half.T
        assert torch.allclose(products, torch.diag(products.diagonal()), atol=1e-5)
    wanted = [s for a in adapters for s in np.linalg.svd(dense(a), compute_uv=False)[:2]]
    assert np.allclose(
        np.linalg.svd(update(found, D_IN), compute_uv=False)[:6], sorted(wanted)[::-1]
    )


def test_the_same_adapter_many_times_is_no_noise() -> None:
    """Vectors that coincide share one direction; none is made up."""
    adapters = zoo([3]) * 3
    found = update(solve(adapters, "tsv", 9).rows, D_IN)
    u, _, vt = np.linalg.svd(dense(adapters[0]))
    inside = u[:, :3] @ u[:, :3].T @ found @ vt[:3].T @ vt[:3]
    assert np.linalg.norm(found - inside) <= ROUNDING * np.linalg.norm(found)


@pytest.mark.parametrize("k", [1, 4, 9])
def test_iso_equals_the_dense_computation(k: int) -> None:
    adapters = zoo([4, 5, 6])
    u, s, vt = np.linalg.svd(total(adapters))
    wanted = s[:k].mean() * u[:, :k] @ vt[:k]
    assert gap(solve(adapters, "iso", k).rows, wanted) <= ROUNDING


def test_iso_lifts_no_rounding() -> None:
    """Six directions of two updates; the pool has more rows than that."""
    a, b = factors(0, 3)
    c, d = factors(1, 3)
    twice = [(a, b, 1.0), (c, d, 1.0), (a, b, 2.0)]
    found = solve(twice, "iso", 9)
    assert found.rows.shape[0] == 6
    s = np.linalg.svd(total(twice), compute_uv=False)
    values = np.linalg.svd(update(found.rows, D_IN), compute_uv=False)
    assert np.allclose(values[:6], s[:6].mean(), rtol=1e-5)


Merge = Callable[[list[np.ndarray]], Any]


def signed(columns: np.ndarray) -> np.ndarray:
    """The columns, the largest entry of each positive."""
    largest = columns[np.abs(columns).argmax(axis=0), np.arange(columns.shape[1])]
    out: np.ndarray = columns * np.sign(largest)
    return out


def core_space_by_dense_svd(adapters: Adapters, k: int, merge: Merge) -> np.ndarray:
    """Core Space, from the paper's definitions, dense."""
    left = np.hstack([s**0.5 * b.double().numpy() for _, b, s in adapters])
    below = np.vstack([s**0.5 * a.double().numpy() for a, _, s in adapters])
    u = signed(np.linalg.svd(left, full_matrices=False)[0])
    v = signed(np.linalg.svd(below, full_matrices=False)[2].T)
    core = merge([u.T @ dense(adapter) @ v for adapter in adapters])
    p, s, qt = np.linalg.svd(u @ core @ v.T)
    out: np.ndarray = (p[:, :k] * s[:k]) @ qt[:k]
    return out


def knots_by_dense_svd(adapters: Adapters, k: int, merge: Merge) -> np.ndarray:
    """KnOTS, from the paper's definitions, dense."""
    updates = [dense(adapter) for adapter in adapters]
    u, s, vt = np.linalg.svd(np.hstack(updates), full_matrices=False)
    kept = int((s > 1e-6 * s[0]).sum())
    signs = np.sign((u * signed(u)).sum(axis=0))[:kept, None]
    rights = [right.T for right in np.split(signs * vt[:kept], len(updates), axis=1)]
    merged = (u[:, :kept] * signs.T * s[:kept]) @ merge(rights).T
    p, s, qt = np.linalg.svd(merged)
    out: np.ndarray = (p[:, :k] * s[:k]) @ qt[:k]
    return out


IN_BASES = {"core_space": core_space_by_dense_svd, "knots": knots_by_dense_svd}


def merge_by_loops(inner: str, density: float) -> Merge:
    """The merge inside, from the papers' steps; DARE's draw is taken as it is."""
    if inner == "sum":
        return sum
    if inner == "ties":
        return lambda tensors: ties_by_loops(tensors, density)
    draw = int(torch.randint(2**62, (1,), generator=torch.Generator().manual_seed(0)))

    def merge(tensors: list[np.ndarray]) -> np.ndarray:
        whole = [torch.from_numpy(tensor) for tensor in tensors]
        left = [tensor.numpy() for tensor in thinned(lambda: whole, 0.6, draw)()]
        return ties_by_loops(left, density)

    return merge


@pytest.mark.parametrize(
    ("inner", "density", "options"),
    [
        ("sum", 1.0, {}),
        ("ties", 0.3, {"density": 0.3}),
        ("ties", 1.0, {"density": 1.0}),
        ("dare_ties", 0.3, {"density": 0.3, "dare_density": 0.6}),
    ],
    ids=["sum", "ties-0.3", "ties-1", "dare_ties"],
)
@pytest.mark.parametrize("ranks", [[2, 3, 2], [4, 5, 6]])  # fewer than both sides, and more
@pytest.mark.parametrize("k", [2, 7])
@pytest.mark.parametrize("name", IN_BASES)
def test_merges_in_shared_bases_equal_the_dense_computation(
    name: str, k: int, ranks: list[int], inner: str, density: float, options: dict[str, Any]
) -> None:
    adapters = zoo(ranks, [2.0, 1.0, 0.5])
    found = solve(adapters, name, k, inner=inner, **options)
    wanted = IN_BASES[name](adapters, k, merge_by_loops(inner, density))
    assert gap(found.rows, wanted) <= ROUNDING


@pytest.mark.parametrize(
    ("name", "k"), [*itertools.product(IN_BASES, (3, 12, 40)), ("ctm", 12), ("ctm", 40)]
)
def test_with_a_sum_inside_they_are_svd(name: str, k: int) -> None:
    """But for ctm at a low rank, for it projects before it sums."""
    adapters = zoo([4, 2, 6], [2.0, -1.0, 0.5])
    found, wanted = solve(adapters, name, k, inner="sum"), solve(adapters, "svd", k)
    assert found.rows.shape == wanted.rows.shape
    assert gap(found.rows, update(wanted.rows, D_IN)) <= ROUNDING
    assert found.comparison.relative_error() == pytest.approx(
        wanted.comparison.relative_error(), rel=1e-5, abs=1e-6
    )
