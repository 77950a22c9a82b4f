"""The step after a merge: what a power of the spectrum promises, and what `adaptive` does."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from lego_ray.errors import InvalidOption
from lego_ray.methods.base import SiteSolution
from lego_ray.methods.names import METHODS
from lego_ray.methods.presets import PRESETS
from lego_ray.methods.registry import method_of
from lego_ray.methods.scaling import parts, scaled
from lego_ray.methods.sources_of_site import SiteSources
from lego_ray.methods.spectrum import (
    checked_spectrum,
    count_up_to,
    effective_count,
    with_spectrum,
)
from lego_ray.numerics.shards.spread import LocalShards, SpreadPool
from tests.methods.solving import Adapters, pools
from tests.methods.test_laws import shuffled
from tests.numerics.factors import D_IN, factors, total, update, zoo

RANKS = [4, 7, 2, 5]
# Rows are rounded to float32 before the step and after it.
ROUNDING = 16 * 2.0**-23
ADAPTIVE = ("adaptive", "lego-adaptive")


def merged(
    adapters: Adapters,
    preset: str,
    k: int,
    *,
    cuts: list[int] | None = None,
    seed: int = 5,
    route: str = "",
) -> SiteSolution:
    """Solved and stepped as a preset says, the pool whole or, with cuts, in shards."""
    told = PRESETS[preset]
    method = method_of(told.method, told.options)
    generator = torch.Generator().manual_seed(seed)
    found = pools(adapters, method, cuts or [])
    if cuts is None:
        solution = method.solve(found[0], k, generator, route)
        sources = SiteSources(found[0])
    else:
        spread = SpreadPool(LocalShards([method.shard(pool) for pool in found]))
        solution = method.solve_spread(spread, k, generator)
        sources = SiteSources(spread)
    stepped = with_spectrum(solution, sources, told.spectrum)
    return scaled(stepped, sources, told.output_scale, 1.0)


def by_definition(start: np.ndarray, adapters: Adapters, k: int, cap: float) -> np.ndarray:
    """The adaptive step on a dense update, in float64."""
    norms = np.array([np.linalg.norm(total([one])) for one in adapters])
    count = np.clip(norms.sum() ** 2 / np.linalg.norm(total(adapters)) ** 2, 1, len(adapters))
    u, s, vh = np.linalg.svd(start, full_matrices=False)
    values = s[:k] ** max(0.0, 2.0 - count)
    values *= min(np.sqrt(count), cap) * np.sqrt(np.mean(norms**2)) / np.linalg.norm(values)
    return np.asarray((u[:, :k] * values) @ vh[:k])


def alike(count: int, apart: float) -> Adapters:
    """Adapters of one update and a share each of their own: near copies, or nothing in common."""
    a, b = factors(0, 3)
    others = [factors(1 + t, 3) for t in range(count)]
    return [(torch.cat([a, x]), torch.cat([b, apart * y], 1), 1.0) for x, y in others]


@pytest.mark.parametrize("apart", [0.1, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_adaptive_is_its_definition(count: int, apart: float) -> None:
    adapters = alike(count, apart)
    wanted = by_definition(
        total(adapters), adapters, 4, parts(PRESETS["adaptive"].output_scale).cap
    )
    found = merged(adapters, "adaptive", 4)
    got = update(found.rows, D_IN)
    assert np.linalg.norm(got - wanted) <= ROUNDING * np.linalg.norm(wanted)
    s = total(adapters)
    error = np.linalg.norm(wanted - s) / np.linalg.norm(s)
    assert found.comparison.relative_error() == pytest.approx(error, rel=1e-5)
    assert found.comparison.norm_ratio == pytest.approx(
        np.linalg.norm(wanted) / np.linalg.norm(s), rel=1e-5
    )


@pytest.mark.parametrize("apart", [0.1, 0.5, 3.0])
def test_lego_adaptive_steps_on_from_the_papers_merge(apart: float) -> None:
    adapters = alike(3, apart)
    start = update(merged(adapters, "paper", 5).rows, D_IN)
    wanted = by_definition(start, adapters, 5, 2.0)
    found, paper = merged(adapters, "lego-adaptive", 5), merged(adapters, "paper", 5)
    got = update(found.rows, D_IN)
    assert np.linalg.norm(got - wanted) <= ROUNDING * np.linalg.norm(wanted)
    assert found.labels is not None
    assert paper.labels is not None
    assert torch.equal(found.labels, paper.labels)
    assert found.inertia == paper.inertia


@pytest.mark.parametrize("preset", ADAPTIVE)
@pytest.mark.parametrize("copies", [1, 2, 5])
@pytest.mark.parametrize("scaling", [2.0, -0.5])
def test_a_lone_adapter_and_copies_of_one_come_back(
    preset: str, copies: int, scaling: float
) -> None:
    [one] = zoo([4], [scaling])
    got = update(merged([one] * copies, preset, 4).rows, D_IN)
    wanted = total([one])
    assert np.linalg.norm(got - wanted) <= 1e-6 * np.linalg.norm(wanted)


@pytest.mark.parametrize("preset", ADAPTIVE)
def test_a_lone_adapter_comes_back_rank_by_rank(preset: str) -> None:
    [one] = zoo([4])
    plain = {"adaptive": "svd", "lego-adaptive": "lego"}[preset]
    method = method_of(plain, PRESETS[preset].options)
    [pool] = pools([one], method, [])
    solution = method.solve(pool, 4, torch.Generator().manual_seed(0))
    assert with_spectrum(solution, SiteSources(pool), "adaptive") is solution


@pytest.mark.parametrize("preset", ADAPTIVE)
def test_the_norm_does_not_depend_on_the_rank(preset: str) -> None:
    adapters = zoo(RANKS)
    norms = [np.linalg.norm(update(merged(adapters, preset, k).rows, D_IN)) for k in (1, 3, 6, 9)]
    assert norms == pytest.approx([norms[0]] * 4, rel=1e-6)


def test_adaptive_has_no_seed() -> None:
    adapters = zoo(RANKS)
    first = merged(adapters, "adaptive", 4)
    assert torch.equal(merged(adapters, "adaptive", 4, seed=99).rows, first.rows)


@pytest.mark.parametrize("preset", ADAPTIVE)
def test_order_shards_and_routes_change_no_bit(preset: str) -> None:
    for adapters in (zoo(RANKS), alike(4, 0.5), zoo([30, 12, 28, 7, 43])):
        wanted = merged(adapters, preset, 5).rows
        for seed in range(3):
            again = shuffled(adapters, seed, ranks=True)
            assert torch.equal(merged(again, preset, 5).rows, wanted)
        if preset == "lego-adaptive":
            assert torch.equal(merged(adapters, preset, 5, cuts=[1, 2]).rows, wanted)
            for route in ("gram", "msu"):
                assert torch.equal(merged(adapters, preset, 5, route=route).rows, wanted)
        elif len(adapters) == 5:
            assert torch.equal(merged(adapters, preset, 5, cuts=[1, 3]).rows, wanted)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("power", [0.0, 0.3, 2.0])
def test_a_power_keeps_directions_and_norm_of_any_method(name: str, power: float) -> None:
    adapters = zoo(RANKS)
    method = method_of(name, {})
    [pool] = pools(adapters, method, [])
    k = 18 if name == "concat" else 7
    solution = method.solve(pool, k, torch.Generator().manual_seed(0))
    found = with_spectrum(solution, SiteSources(pool), power)
    assert found.rows.shape == solution.rows.shape
    before, after = update(solution.rows, D_IN), update(found.rows, D_IN)
    u, s, vh = np.linalg.svd(before, full_matrices=False)
    kept = s > 2.0**-20 * s[0]
    values = s[kept] ** power
    values *= np.linalg.norm(s) / np.linalg.norm(values)
    wanted = (u[:, kept] * values) @ vh[kept]
    # The smallest directions that are lifted have lost the most digits.
    lost = 2.0**-23 * s[0] / s[kept][-1]
    assert np.linalg.norm(after - wanted) <= 8 * max(lost, ROUNDING) * np.linalg.norm(wanted)
    assert np.linalg.norm(after) == pytest.approx(np.linalg.norm(before), rel=1e-5)


def test_a_power_of_one_changes_no_bit() -> None:
    [pool] = pools(zoo(RANKS), method_of("lego", {}), [])
    solution = method_of("lego", {}).solve(pool, 3, torch.Generator().manual_seed(0))
    assert with_spectrum(solution, SiteSources(pool), 1.0) is solution


def test_updates_that_are_zero_stay_so() -> None:
    nothing = [(a, torch.zeros_like(b), s) for a, b, s in zoo([4, 3])]
    for preset in ADAPTIVE:
        assert not update(merged(nothing, preset, 5).rows, D_IN).any()
    # Rows that are not zero, of an update that is.
    [pool] = pools(nothing, method_of("concat", {}), [])
    solution = method_of("concat", {}).solve(pool, 7, torch.Generator())
    assert torch.equal(with_spectrum(solution, SiteSources(pool), 0.0).rows, solution.rows)


@pytest.mark.parametrize(
    ("squares", "whole", "wanted"),
    [
        ([4.0], 4.0, 1.0),
        ([4.0, 4.0], 16.0, 1.0),
        ([4.0, 9.0], 25.0, 1.0),
        ([4.0, 4.0], 8.0, 2.0),
        ([4.0, 4.0], 12.0, 4 / 3),
        ([1.0, 1.0, 1.0], 0.0, 3.0),
        ([1.0, 1.0, 1.0], -1e-18, 3.0),
        ([0.0, 0.0], 0.0, 1.0),
    ],
)
def test_how_many_unrelated_adapters_some_are_worth(
    squares: list[float], whole: float, wanted: float
) -> None:
    assert effective_count(squares, whole) == pytest.approx(wanted, abs=2.0**-20)


@pytest.mark.parametrize("preset", ADAPTIVE)
@pytest.mark.parametrize("cuts", [None, [3, 6]], ids=["whole", "spread"])
@pytest.mark.parametrize("apart", [0.1, 0.5, 0.7, 1.0, 3.0])
def test_the_exact_norm_of_the_sum_is_left_out_only_where_it_changes_no_bit(
    apart: float, cuts: list[int] | None, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapters = alike(9, apart)
    found = merged(adapters, preset, 4, cuts=cuts)
    asked = []

    def exactly(most: float, sources: SiteSources, about: float) -> float:
        short = count_up_to(most, SiteSources(sources.pool), about)
        whole = effective_count(sources.squares, sources.total)
        assert short == whole or (short == math.inf and whole > most)
        asked.append(short)
        return whole

    for module in ("lego_ray.methods.spectrum", "lego_ray.methods.scaling"):
        monkeypatch.setattr(f"{module}.count_up_to", exactly)
    assert torch.equal(merged(adapters, preset, 4, cuts=cuts).rows, found.rows)
    # Nine adapters that share little are worth more than any rule looks at; near copies are not.
    assert asked.count(math.inf) == {0.1: 0, 3.0: 2}.get(apart, asked.count(math.inf))


def test_what_is_left_out_is_the_product_that_costs_most() -> None:
    [pool] = pools(alike(9, 3.0), method_of("svd", {}), [])
    sources = SiteSources(pool)
    total_of = effective_count(sources.squares, SiteSources(pool).total)
    about = sum(map(math.sqrt, sources.squares)) ** 2 / total_of
    assert count_up_to(2.0, sources, about) == math.inf
    assert "total" not in vars(sources)
    for unsure in (0.0, -1.0, about * total_of / 2.0):  # of terms that cancel, or at the bound
        assert count_up_to(2.0, sources, unsure) == total_of


@pytest.mark.parametrize("wrong", [-1, True, None, float("nan"), float("inf"), "2", "", "adapt"])
def test_a_power_that_is_none_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidOption, match="--spectrum"):
        checked_spectrum(wrong)
