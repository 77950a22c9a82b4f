"""Compress-then-Merge, against the paper's definitions in dense float64 arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from lego_ray.errors import InvalidOption
from lego_ray.methods.registry import method_of
from tests.methods.solving import Adapters, solve
from tests.methods.test_gauge import GAUGE_ROUNDING, GAUGES, mixed
from tests.methods.test_stacked import ties_by_loops
from tests.numerics.factors import D_IN, factors, total, update, zoo

# Rows are rounded to float32 once; an update is a sum of products of two.
ROUNDING = 2.0**-19
# The iteration ends where a round gains 2^-36 of all there is, so directions are right to about 2^-18,
# and the reference goes on much longer.
ENDED_EARLIER = 2.0**-14

Merge = Callable[[list[np.ndarray]], Any]


def dense(adapter: tuple[torch.Tensor, torch.Tensor, float]) -> np.ndarray:
    return total([adapter])


def shared(updates: list[np.ndarray], k: int, beta: float) -> tuple[np.ndarray, np.ndarray]:
    """U and V of the Tucker-2 decomposition by HOOI, run until it gains nothing."""
    norms = [np.linalg.norm(w) for w in updates]
    mean = np.mean([n for n in norms if n])
    stack = [
        w * (beta * n + (1 - beta) * mean) / n for w, n in zip(updates, norms, strict=True) if n
    ]
    v = np.linalg.svd(np.vstack(stack), full_matrices=False)[2][:k].T
    before: Any = -1.0
    for _ in range(20_000):
        u = np.linalg.svd(np.hstack([w @ v for w in stack]), full_matrices=False)[0][:, :k]
        v = np.linalg.svd(np.hstack([w.T @ u for w in stack]), full_matrices=False)[0][:, :k]
        kept = sum(np.linalg.norm(u.T @ w @ v) ** 2 for w in stack)
        if kept - before <= 1e-15 * kept:
            break
        before = kept
    return u, v


def by_dense_hooi(adapters: Adapters, k: int, merge: Merge, beta: float = 0.0) -> np.ndarray:
    updates = [dense(adapter) for adapter in adapters]
    u, v = shared(updates, k, beta)
    out: np.ndarray = u @ merge([u.T @ w @ v for w in updates]) @ v.T
    return out


def gap(rows: torch.Tensor, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(update(rows, D_IN) - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("beta", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("ranks", [[2, 3, 2], [4, 5, 6], [1, 7, 1, 2]])
@pytest.mark.parametrize("k", [2, 4, 7])
def test_the_sum_inside_equals_the_dense_computation(ranks: list[int], k: int, beta: float) -> None:
    adapters = zoo(ranks, [2.0, -1.0, 0.1, 0.5][: len(ranks)])
    found = solve(adapters, "ctm", k, inner="sum", beta=beta)
    assert found.rows.shape[0] <= k
    assert gap(found.rows, by_dense_hooi(adapters, k, sum, beta)) <= ENDED_EARLIER


@pytest.mark.parametrize("density", [0.3, 1.0])
@pytest.mark.parametrize("ranks", [[2, 3, 2], [4, 5, 6]])
@pytest.mark.parametrize("k", [2, 5, 7])
def test_ties_inside_equals_the_dense_computation(ranks: list[int], k: int, density: float) -> None:
    adapters = zoo(ranks, [2.0, 1.0, 0.5])
    found = solve(adapters, "ctm", k, density=density)
    wanted = by_dense_hooi(adapters, k, lambda cores: ties_by_loops(cores, density))
    assert gap(found.rows, wanted) <= ENDED_EARLIER


def test_many_adapters_of_which_only_nearer_directions_are_sought() -> None:
    """Where k is far below the pool's size, rounds take a step each instead of a decomposition."""
    generator = np.random.default_rng(5)
    common = [torch.from_numpy(generator.normal(size=(3, n))).float() for n in (60, 50)]
    adapters = []
    for t in range(12):
        a, b = factors(t, 4, 60, 50)
        mix = torch.from_numpy(generator.normal(size=(4, 3))).float()
        adapters.append((a + mix @ common[0], b + (mix @ common[1]).T, 0.5))
    found = solve(adapters, "ctm", 3, inner="sum").rows
    wanted = by_dense_hooi(adapters, 3, sum)
    assert np.linalg.norm(update(found, 60) - wanted) <= ENDED_EARLIER * np.linalg.norm(wanted)


def test_updates_in_common_subspaces_lose_nothing() -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(3, D_IN, generator=generator), torch.randn(9, 3, generator=generator)
    adapters = [
        (
            torch.randn(r, 3, generator=generator) @ a,
            b @ torch.randn(3, r, generator=generator),
            1.0,
        )
        for r in (3, 5, 2, 4)
    ]
    assert gap(solve(adapters, "ctm", 3, inner="sum").rows, total(adapters)) <= ROUNDING


@pytest.mark.parametrize("k", [18, 100])
def test_k_above_everything_projects_nothing_away(k: int) -> None:
    adapters = zoo([4, 7, 2], [2.0, 1.0, -0.5])
    found = solve(adapters, "ctm", k, inner="sum")
    assert gap(found.rows, total(adapters)) <= ROUNDING
    assert found.comparison.relative_error() < 1e-6


def test_one_adapter_of_very_unlike_directions_comes_back() -> None:
    a, b = factors(0, 6)
    b = b * 10.0 ** -torch.arange(6)
    cases: list[tuple[str, dict[str, Any]]] = [("sum", {}), ("ties", {"density": 1.0})]
    for name, options in cases:
        found = solve([(a, b, 2.0)], "ctm", 6, inner=name, **options)
        assert gap(found.rows, dense((a, b, 2.0))) <= ROUNDING


def nothing() -> tuple[torch.Tensor, torch.Tensor, float]:
    a, b = factors(77, 3)
    return a, torch.zeros_like(b), 1.0


def cancelling() -> tuple[torch.Tensor, torch.Tensor, float]:
    a, b = factors(78, 2)
    return torch.cat([a, a]), torch.cat([b, -b], dim=1), 100.0


@pytest.mark.parametrize("empty", [nothing, cancelling])
@pytest.mark.parametrize("inner", ["sum", "ties", "dare_ties"])
def test_an_adapter_whose_update_is_zero_changes_nothing(
    empty: Callable[[], tuple[torch.Tensor, torch.Tensor, float]], inner: str
) -> None:
    adapters = zoo([4, 7, 2])
    wanted = update(solve(adapters, "ctm", 4, inner=inner).rows, D_IN)
    with_it = [adapters[0], empty(), *adapters[1:]]
    assert gap(solve(with_it, "ctm", 4, inner=inner).rows, wanted) <= ENDED_EARLIER


def test_the_same_adapter_many_times_is_that_adapter_so_often() -> None:
    adapters = zoo([3]) * 3
    found = solve(adapters, "ctm", 9, inner="sum")
    assert gap(found.rows, total(adapters)) <= ROUNDING
    found = solve(adapters, "ctm", 3, density=1.0)
    assert gap(found.rows, dense(adapters[0])) <= ROUNDING


def test_beta_says_how_far_a_small_adapter_counts() -> None:
    """Both of rank 2, and two directions a side: as they are the large one's, alike a share of both."""
    large, small = zoo([2, 2], [1.0, 1e-4])

    def kept(beta: float) -> float:
        rows = solve([large, small], "ctm", 2, inner="sum", beta=beta).rows
        left = np.linalg.svd(update(rows, D_IN))[0][:, :2]
        return float(np.linalg.norm(left.T @ dense(small)) / np.linalg.norm(dense(small)))

    large_left = np.linalg.svd(dense(large))[0][:, :2]
    by_chance = np.linalg.norm(large_left.T @ dense(small)) / np.linalg.norm(dense(small))
    assert kept(1.0) == pytest.approx(by_chance, rel=1e-3)
    assert kept(0.0) > by_chance + 0.1


@pytest.mark.slow
@pytest.mark.parametrize("gauge", GAUGES)
@pytest.mark.parametrize(
    "options",
    [
        {"inner": "sum"},
        {"inner": "ties"},
        {"inner": "ties", "election": "frequency", "density": 0.7},
        {"inner": "dare_ties", "dare_density": 0.6},
        {"inner": "sum", "beta": 1.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("k", [2, 5])
def test_no_gauge_is_seen(options: dict[str, Any], k: int, gauge: str) -> None:
    adapters = zoo([4, 7, 2, 5])
    wanted = update(solve(adapters, "ctm", k, **options).rows, D_IN)
    found = solve(mixed(adapters, GAUGES[gauge]), "ctm", k, **options).rows
    assert gap(found, wanted) <= GAUGE_ROUNDING


@pytest.mark.parametrize(
    ("beta", "said"),
    [
        (-0.1, "is not a number of at least 0 and at most 1"),
        (2, "is not a number of at least 0 and at most 1"),
        (float("nan"), "nan is not a finite number"),
        ("0", "'0' is of type str; expected a number"),
    ],
)
def test_beta_is_checked(beta: object, said: str) -> None:
    with pytest.raises(InvalidOption, match=f"--beta: .*{said}"):
        method_of("ctm", {"beta": beta})
