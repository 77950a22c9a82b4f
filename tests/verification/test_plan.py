"""Comparisons are planned within the budget, in bands as wide as it allows."""

from __future__ import annotations

from typing import Any

import pytest

from lego_ray.errors import InvalidOption
from lego_ray.planning.inventory import Inventory
from lego_ray.planning.recipe import Recipe
from lego_ray.planning.task_plans import WORKER_BYTES
from lego_ray.verification.plan import Comparison, plan_comparison
from tests.planning.records import adapter, factors, inventory, layers

SIDE = 512


def many(count: int) -> Inventory:
    sites = [factors(site, 64, (SIDE, SIDE)) for site in layers(2)]
    return inventory(*(adapter(f"a{i:03}", sites) for i in range(count)))


def planned(count: int, megabytes: float, rank: int = 16) -> Any:
    merged = adapter("m", [factors(site, rank, (SIDE, SIDE)) for site in layers(2)])
    return plan_comparison(
        Recipe(name="m", rank=rank, method="concat"),
        many(count),
        [1.0] * count,
        merged,
        merge_id="id",
        memory_budget=WORKER_BYTES + int(megabytes * 1e6),
    )


def test_pools_that_fit_are_compared_at_once() -> None:
    plan, _ = planned(4, 200)
    assert plan.n_sites == 4
    assert not any(task.shards for task in plan.tasks)
    assert plan.peak_bytes <= plan.memory_budget


@pytest.mark.parametrize("megabytes", [20, 40])
def test_pools_that_do_not_fit_are_cut_into_blocks_within_the_budget(megabytes: float) -> None:
    plan, work = planned(200, megabytes)  # 52 MB a site
    for task in plan.tasks:
        assert sum(shard.n_adapters for shard in task.shards) == 200
        assert max(shard.peak_bytes for shard in task.shards) <= plan.memory_budget
    bands = work.bands(SIDE, SIDE)
    assert [start for start, _ in bands[1:]] == [end for _, end in bands[:-1]]
    assert (bands[0][0], bands[-1][1]) == (0, SIDE)


def test_bands_grow_with_the_budget_to_the_whole_sum() -> None:
    counts = [len(planned(200, size)[1].bands(SIDE, SIDE)) for size in (13, 20, 45)]
    assert counts[0] > counts[1] >= counts[2] == 1


def test_the_merged_adapter_is_held_whole_and_counted() -> None:
    assert planned(200, 20, rank=16)
    with pytest.raises(InvalidOption, match="Raise the budget") as caught:
        planned(200, 20, rank=2000)
    assert caught.value.where == "--memory-budget"


def test_a_band_has_a_row_at_least() -> None:
    assert Comparison(16, 0).bands(10, 3) == [(0, 1), (1, 2), (2, 3)]
    assert Comparison(16, 160).bands(10, 3) == [(0, 2), (2, 3)]
