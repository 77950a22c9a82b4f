"""What a plan looks like: sites, order, tasks, estimates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from lego_ray.errors import InvalidOption
from lego_ray.formats.record import AdapterRecord
from lego_ray.planning.cutting import MOST_AHEAD, layer_of
from lego_ray.planning.plan import Plan
from lego_ray.planning.planner import make_plan
from lego_ray.planning.recipe import Recipe
from lego_ray.planning.task_plans import READ_AHEAD, WORKER_BYTES
from tests.planning.records import SHAPE, adapter, factors, inventory, layers, zoo

# A site of this size has work for several seconds on one core, so its layer is worth a task.
HEAVY = (16384, 16384)


def planned(*adapters: object, rank: int = 4, **options: object) -> Plan:
    return make_plan(Recipe(name="m", rank=rank), inventory(*adapters), **options)  # type: ignore[arg-type]


def names(plan: Plan) -> list[str]:
    return [site.site for task in plan.tasks for site in task.sites]


def test_every_site_is_planned_once_with_all_its_ranks() -> None:
    one = adapter("one", [factors("layers.0.q", 4), factors("layers.0.v", 4)])
    two = adapter("two", [factors("layers.0.q", 6)])
    plan = planned(one, two)
    sites = {site.site: site for task in plan.tasks for site in task.sites}
    assert {name: (s.n_msus, s.n_adapters) for name, s in sites.items()} == {
        "layers.0.q": (10, 2),
        "layers.0.v": (4, 1),
    }
    assert plan.n_sites == 2
    assert plan.n_msus == 14


def test_layers_are_in_the_order_of_their_numbers() -> None:
    sites = [f"model.layers.{i}.q" for i in (10, 2, 1, 0, 11, 9)]
    plan = planned(adapter("a", [factors(s) for s in sites]))
    assert names(plan) == [f"model.layers.{i}.q" for i in (0, 1, 2, 9, 10, 11)]
    flat = [f"lora_unet_blocks_{i}_q" for i in (10, 2, 1)]
    assert names(planned(adapter("a", [factors(s) for s in flat]))) == flat[::-1]


def test_light_layers_share_one_task() -> None:
    assert len(planned(adapter("a", [factors(s) for s in layers(40)])).tasks) == 1


def test_heavy_layers_are_a_task_each_and_never_cut_apart() -> None:
    many = [adapter(f"a{i}", [factors(s, 64, HEAVY) for s in layers(3)]) for i in range(16)]
    plan = planned(*many, memory_budget=2**40)
    assert [g.name for g in plan.tasks] == [f"model.layers.{i}" for i in range(3)]
    assert [len(g.sites) for g in plan.tasks] == [2, 2, 2]


def test_a_small_budget_cuts_tasks_that_each_fit_it() -> None:
    found = adapter("a", [factors(s) for s in layers(6)])
    whole = planned(found)
    budget = WORKER_BYTES + (whole.peak_bytes - WORKER_BYTES) * 9 // 10
    cut = planned(found, memory_budget=budget)
    assert len(whole.tasks) == 1
    assert len(cut.tasks) > 1
    assert all(task.peak_bytes <= budget for task in cut.tasks)
    assert names(cut) == names(whole)


def test_a_group_needs_all_its_pools_and_one_solution() -> None:
    [q] = planned(adapter("a", [factors("l.0.q", 4)])).tasks
    [v] = planned(adapter("a", [factors("l.0.v", 8)])).tasks
    [both] = planned(adapter("a", [factors("l.0.q", 4), factors("l.0.v", 8)])).tasks
    assert q.sites[0].pool_bytes == 4 * 4 * sum(SHAPE)
    assert max(q.peak_bytes, v.peak_bytes) < both.peak_bytes
    assert both.peak_bytes < q.peak_bytes + v.peak_bytes - WORKER_BYTES


def wide(count: int, rank: int = 16) -> list[AdapterRecord]:
    """Adapters whose one site pools 16 rows of 32,768 values each: 2 MiB an adapter."""
    return [adapter(f"a{i:03}", [factors("l.0.q", rank, HEAVY)]) for i in range(count)]


def spread(count: int, share: float) -> Plan:
    """A plan whose budget holds this share of what the pool takes in one worker."""
    whole = planned(*wide(count), memory_budget=2**50)
    need = whole.peak_bytes - WORKER_BYTES
    return planned(*wide(count), memory_budget=WORKER_BYTES + int(share * need))


def test_a_site_that_fits_is_not_spread_and_takes_its_fastest_route() -> None:
    [group] = planned(*wide(40), memory_budget=2**50).tasks
    assert group.shards == ()
    assert group.sites[0].route in ("gram", "msu")


def test_a_site_that_fits_no_worker_is_spread_over_shards_that_do() -> None:
    plan = spread(200, 0.45)
    [group] = plan.tasks
    [site] = group.sites
    assert site.route == "spread"
    assert group.name == "l.0.q"
    assert len(group.shards) > 1
    assert sum(s.n_adapters for s in group.shards) == 200
    assert sum(s.n_msus for s in group.shards) == site.n_msus
    assert sum(s.read_bytes for s in group.shards) == group.read_bytes
    assert max(s.peak_bytes for s in group.shards) == group.peak_bytes
    assert group.peak_bytes < planned(*wide(200), memory_budget=2**50).peak_bytes


def test_shards_are_about_equal_and_smaller_budgets_make_more() -> None:
    few, many = spread(200, 0.45).tasks[0], spread(200, 0.3).tasks[0]
    assert len(many.shards) > len(few.shards)
    for group in (few, many):
        sizes = [shard.n_msus for shard in group.shards]
        assert max(sizes) - min(sizes) <= 16 * len(sizes)


def test_an_owner_takes_memory_that_does_not_grow_with_the_width_of_the_pool() -> None:
    few, many = spread(200, 0.45).tasks[0], spread(400, 0.3).tasks[0]
    assert many.owner_bytes - few.owner_bytes < 200 * 16 * 1000  # under 1 kB a row; a row is 128 kB


def test_spreading_changes_no_digest() -> None:
    assert spread(200, 0.45).digest == planned(*wide(200)).digest


def test_a_budget_may_rule_out_the_faster_route() -> None:
    adapters = [adapter(f"a{i:03}", [factors("l.0.q", 16, (2048, 2048))]) for i in range(100)]
    fast = planned(*adapters, memory_budget=2**50).tasks[0]
    lean = planned(*adapters, memory_budget=fast.peak_bytes - 1).tasks[0]
    assert (fast.routes, lean.routes) == ("gram", "msu")
    assert lean.peak_bytes < fast.peak_bytes
    assert lean.shards == ()


def test_updates_as_distances_are_never_spread() -> None:
    recipe = Recipe(name="m", rank=4, options={"distance": "rank-one"})
    with pytest.raises(InvalidOption, match="distance rank-one"):
        make_plan(recipe, inventory(*wide(200)), memory_budget=WORKER_BYTES + 2**28)


def test_a_site_that_does_not_fit_the_budget_is_refused_by_name() -> None:
    with pytest.raises(InvalidOption, match=r"--memory-budget: site model\.layers\.0\.q_proj"):
        make_plan(Recipe(name="m", rank=4), zoo(), memory_budget=1000)


def test_reads_are_the_bytes_of_the_tensors() -> None:
    full = adapter("full", [factors("l.0.q", 4), factors("l.1.q", 4)])
    half = adapter("half", [factors("l.0.q", 4, dtype="BF16")])
    plan = planned(full, half)
    assert plan.read_bytes == (4 + 4 + 2) * 4 * sum(SHAPE)
    assert plan.read_bytes == sum(task.read_bytes for task in plan.tasks)


def test_estimates_grow_with_the_pool() -> None:
    small, large = planned(*zoo(2).adapters), planned(*zoo(40).adapters)
    assert large.peak_bytes > small.peak_bytes
    assert large.tasks[0].sites[0].seconds > small.tasks[0].sites[0].seconds


def test_a_convolution_keeps_the_shape_it_is_stored_in() -> None:
    conv = factors("conv", 4, (18, 5), kind="conv", tail=(3, 3, 2))
    [site] = planned(adapter("a", [conv])).tasks[0].sites
    assert (site.kind, site.d_in, site.d_out, site.a_tail, site.b_dims) == (
        "conv",
        18,
        5,
        (3, 3, 2),
        4,
    )


def test_the_dtype_is_the_one_most_parameters_have() -> None:
    half = adapter("half", [factors("l.0.q", 4, dtype="BF16")])
    others = [adapter(f"a{i}", [factors("l.0.q", 4)]) for i in range(2)]
    assert planned(half, *others).dtype == "F32"
    larger = adapter("larger", [factors("l.0.q", 16, dtype="BF16")])
    assert planned(larger, *others).dtype == "BF16"
    recipe = Recipe(name="m", rank=4, dtype="F16")
    assert make_plan(recipe, inventory(half, *others)).dtype == "F16"


@pytest.mark.parametrize(
    ("site", "layer"),
    [
        ("model.layers.12.self_attn.q_proj", "model.layers.12"),
        ("encoder.layer.3.mlp.experts.7.up", "encoder.layer.3"),
        ("h.0", "h.0"),
        ("0.q", "0"),
        ("embed_tokens", ""),
        ("layer1.conv2d", ""),
        ("lora_te_text_model_encoder_layers_11_mlp_fc1", "lora_te_text_model_encoder_layers_11"),
        ("lora_te2_text_projection", ""),
        ("lora_unet_down_blocks_0_attentions_1_proj_in", "lora_unet_down_blocks_0"),
    ],
)
def test_a_layer_ends_at_the_first_number(site: str, layer: str) -> None:
    assert layer_of(site) == layer


def test_as_json_says_what_plan_must_show() -> None:
    shown = planned(*zoo(3).adapters).as_json()
    assert {"adapters", "refused", "sites", "bytes", "tasks", "memory_per_worker"} <= shown.keys()
    assert [a["adapter"] for a in shown["adapters"]] == ["/zoo/a0", "/zoo/a1", "/zoo/a2"]
    assert shown["bytes"] == sum(task["bytes"] for task in shown["tasks"])
    assert [(task["route"], task["shards"]) for task in shown["tasks"]] == [("gram", 0)]


def far(adapters: Sequence[AdapterRecord]) -> list[AdapterRecord]:
    return [replace(each, uri=f"s3:/{each.uri}") for each in adapters]


def test_more_is_read_at_once_of_a_store_that_is_far_where_memory_allows() -> None:
    near = [adapter(f"a{i}") for i in range(20)]
    whole, wide = planned(*near), planned(*far(near))
    assert [task.ahead for task in whole.tasks] == [READ_AHEAD] * len(whole.tasks)
    assert [task.ahead for task in wide.tasks] == [MOST_AHEAD] * len(wide.tasks)
    for one, two in zip(whole.tasks, wide.tasks, strict=True):
        held = sum(factors(site.site).read_bytes for site in one.sites)
        assert two.peak_bytes == one.peak_bytes + (MOST_AHEAD - READ_AHEAD) * held
        assert two.sites == one.sites


@pytest.mark.parametrize("more", [0, 1, 2**12, 2**20])
def test_what_fits_a_budget_fits_it_as_well_from_afar(more: int) -> None:
    near = [adapter(f"a{i}") for i in range(20)]
    budget = max(site.peak_bytes for task in planned(*near).tasks for site in task.sites) + more
    here, there = planned(*near, memory_budget=budget), planned(*far(near), memory_budget=budget)
    assert [task.sites for task in there.tasks] == [task.sites for task in here.tasks]
    assert all(task.peak_bytes <= budget for task in there.tasks)
    assert all(READ_AHEAD <= task.ahead <= MOST_AHEAD for task in there.tasks)
