"""What an output scale promises of every method's update, the pool whole or in shards."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lego_ray.errors import InvalidOption
from lego_ray.methods.base import SiteSolution
from lego_ray.methods.names import METHODS
from lego_ray.methods.registry import method_of
from lego_ray.methods.scaling import RULES, checked_output_scale, scaled
from lego_ray.methods.sources_of_site import SiteSources
from lego_ray.numerics.shards.spread import LocalShards, SpreadPool
from tests.methods.solving import Adapters, pools
from tests.methods.test_laws import shuffled
from tests.numerics.factors import D_IN, total, update, zoo

# The factor is rounded to float32 once for each half of a row, and so are the rows.
ROUNDING = 4 * 2.0**-23
RANKS = [30, 12, 28, 7, 43]
K = sum(RANKS)
WHOLE = (
    *("concat", "core_space", "knots", "ctm"),
    *("output_metric", "input_metric", "swudi", "iso_cts", "dc_merge"),
)
# Methods a pool in shards can be merged by, at any size: `svd` and `iso` take this one so.
SPREAD = [name for name in METHODS if name not in WHOLE]


def merged(
    adapters: Adapters,
    name: str,
    scale: str | float,
    *,
    cuts: list[int] | None = None,
    site_scale: float = 1.0,
    k: int = K,
    route: str = "",
    **options: Any,
) -> SiteSolution:
    """Solved and scaled, the pool whole or, with cuts, in shards."""
    method = method_of(name, {"n_init": 2, **options} if name == "lego" else options)
    generator = torch.Generator().manual_seed(5)
    found = pools(adapters, method, cuts or [])
    if cuts is None:
        solution = method.solve(found[0], k, generator, route)
        return scaled(solution, SiteSources(found[0]), scale, site_scale)
    spread = SpreadPool(LocalShards([method.shard(pool) for pool in found]))
    solution = method.solve_spread(spread, k, generator)
    return scaled(solution, SiteSources(spread), scale, site_scale)


def norm(rows: torch.Tensor) -> float:
    return float(np.linalg.norm(update(rows, D_IN)))


def root_mean_square(adapters: Adapters) -> float:
    return float(np.sqrt(np.mean([np.linalg.norm(total([one])) ** 2 for one in adapters])))


def rank_of(name: str) -> int:
    """A rank at which the method loses something, so that a scale has something to fix."""
    return {"concat": K, "svd": 5, "lego": 5, "iso": 5}.get(name, 43)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("ranks", [RANKS, [4, 7, 2, 5]], ids=["wide", "small"])
def test_source_norm_gives_the_root_mean_square_of_the_sources(name: str, ranks: list[int]) -> None:
    adapters = zoo(ranks, [2.0, 0.5, -1.0, 3.0, 1.0][: len(ranks)])
    wanted = root_mean_square(adapters)
    found = merged(adapters, name, "source-norm", k=rank_of(name))
    assert norm(found.rows) == pytest.approx(wanted, rel=ROUNDING)
    assert found.comparison.norm_ratio == pytest.approx(
        wanted / np.linalg.norm(total(adapters)), rel=1e-5
    )
    more = merged(adapters, name, "source-norm*-1.5", k=rank_of(name), site_scale=2.0)
    assert norm(more.rows) == pytest.approx(3 * wanted, rel=ROUNDING)
    gap = update(more.rows, D_IN) + 3 * update(found.rows, D_IN)
    assert np.linalg.norm(gap) <= ROUNDING * norm(more.rows)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_sum_fit_is_the_factor_of_least_error(name: str) -> None:
    adapters = zoo(RANKS, [2.0, 0.5, -1.0, 3.0, 1.0])
    plain = update(merged(adapters, name, 1.0, k=rank_of(name)).rows, D_IN)
    s = total(adapters)
    best = np.sum(plain * s) / np.sum(plain**2)
    found = merged(adapters, name, "sum-fit", k=rank_of(name))
    got = update(found.rows, D_IN)
    assert np.linalg.norm(got - best * plain) <= ROUNDING * np.linalg.norm(plain) * max(
        1, abs(best)
    )
    # What is left is orthogonal to the merged update.
    assert abs(np.sum((s - got) * got)) <= ROUNDING * np.linalg.norm(s) * np.linalg.norm(got)
    error = np.linalg.norm(got - s) / np.linalg.norm(s)
    assert found.comparison.relative_error() == pytest.approx(error, rel=1e-5, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", SPREAD)
@pytest.mark.parametrize("rule", RULES)
def test_shards_and_the_order_of_adapters_change_no_bit(name: str, rule: str) -> None:
    adapters = zoo(RANKS)
    wanted = merged(adapters, name, rule, k=rank_of(name)).rows
    for cuts in ([], [2], [1, 2, 3, 4]):
        assert torch.equal(merged(adapters, name, rule, k=rank_of(name), cuts=cuts).rows, wanted)
    ranks = name in ("lego", "svd", "iso", "tsv")
    for seed in range(2):
        again = shuffled(adapters, seed, ranks=ranks)
        assert torch.equal(merged(again, name, rule, k=rank_of(name), cuts=[3]).rows, wanted)
        assert torch.equal(merged(again, name, rule, k=rank_of(name)).rows, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"normalize": True}, {"basis": "svd"}], ids=str)
@pytest.mark.parametrize("rule", RULES)
def test_the_routes_of_lego_scale_alike(options: dict[str, Any], rule: str) -> None:
    adapters = zoo([4, 7, 2, 5])
    wanted = merged(adapters, "lego", rule, k=3, route="gram", **options).rows
    assert torch.equal(merged(adapters, "lego", rule, k=3, route="msu", **options).rows, wanted)
    assert torch.equal(merged(adapters, "lego", rule, k=3, cuts=[1, 3], **options).rows, wanted)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", METHODS)
def test_updates_that_are_zero_or_cancel_are_not_blown_up(name: str, rule: str) -> None:
    nothing = [(a, torch.zeros_like(b), s) for a, b, s in zoo([4, 3])]
    assert not update(merged(nothing, name, rule, k=7).rows, D_IN).any()
    [(a, b, s)] = zoo([4])
    # Scalings that float32 cannot fold in alike: the sum is rounding and nothing else.
    cancelling = [(a, b, s), (a, 3 * b, -s / 3)]
    if name in ("concat", "svd", "iso"):  # those that merge to the sum
        left = merged(cancelling, name, rule, k=8).rows
        assert norm(left) <= 1e-5 * norm(merged([(a, b, s)], name, 1.0, k=8).rows)


def test_a_scale_of_one_changes_no_bit() -> None:
    adapters = zoo([4, 3])
    method = method_of("lego", {})
    [pool] = pools(adapters, method, [])
    solution = method.solve(pool, 3, torch.Generator().manual_seed(0))
    assert scaled(solution, SiteSources(pool), 1.0, 1.0) is solution


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (2, 2.0),
        ("sum-fit", "sum-fit"),
        ("sum-fit*1", "sum-fit"),
        ("source-norm*0.50", "source-norm*0.5"),
        ("source-norm*-2", "source-norm*-2.0"),
    ],
)
def test_a_scale_has_one_spelling(given: str | float, kept: str | float) -> None:
    assert checked_output_scale(given) == kept
    assert checked_output_scale(kept) == kept


@pytest.mark.parametrize(
    "wrong",
    [
        0,
        True,
        None,
        float("inf"),
        "2",
        "norm",
        "",
        "sum-fit*",
        "sum-fit*0",
        "sum-fit*x",
        "2*sum-fit",
    ],
)
def test_a_scale_that_is_none_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidOption, match="--output-scale"):
        checked_output_scale(wrong)
