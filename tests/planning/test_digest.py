"""What names a run: everything that decides the merged bytes, and nothing else."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from lego_ray.planning.plan import ARITHMETIC
from lego_ray.planning.planner import former_digest, make_plan
from lego_ray.planning.recipe import Recipe, canonical_json, digest_of, site_seed
from tests.planning.records import adapter, at_version, factors, inventory, layers, zoo

FORMER = "fb6a91f52188a0994f15017cba0261b45ae689581977a15cf6b4c3064ac5dc58"
DIGEST = make_plan(Recipe(name="m", rank=4), zoo()).digest


def digest(**recipe: Any) -> str:
    return make_plan(Recipe(**{"name": "m", "rank": 4, **recipe}), zoo()).digest


def test_it_is_a_sha256() -> None:
    assert re.fullmatch("[0-9a-f]{64}", DIGEST)
    assert digest() == DIGEST


def test_the_order_of_adapters_changes_nothing() -> None:
    backwards = inventory(*reversed(zoo().adapters))
    assert make_plan(Recipe(name="m", rank=4), backwards).digest == DIGEST


def test_where_adapters_lie_changes_nothing() -> None:
    moved = inventory(*(adapter(f"elsewhere-{9 - i}", content=f"a{i}") for i in range(3)))
    assert make_plan(Recipe(name="m", rank=4), moved).digest == DIGEST


@pytest.mark.parametrize(
    "other",
    [
        {"rank": 5},
        {"seed": 1},
        {"name": "n"},
        {"dtype": "BF16"},
        {"base_model": "tiny/base"},
        {"full_weights": "drop"},
        {"compact": True},
        {"exclude": ("b*",)},
        {"output_scale": 2.0},
        {"output_scale": "sum-fit"},
        {"output_scale": "sum-fit*2"},
        {"site_scales": {"q_proj": 2.0}},
        {"options": {"n_init": 9}},
        {"options": {"tol": 1e-5}},
        {"options": {"normalize": True}},
        {"options": {"output_reweight": "none"}},
        {"options": {"output_reweight": 0.5}},
        {"options": {"parameter_reweight": "l2"}},
        {"options": {"distance": "rank-one"}},
        {"options": {"basis": "svd"}},
        {"options": {"balance": True}},
        {"options": {"align_signs": True}},
    ],
    ids=str,
)
def test_every_part_of_the_recipe_changes_it(other: dict[str, Any]) -> None:
    assert digest(**other) != DIGEST


def test_an_option_given_at_its_default_changes_nothing() -> None:
    assert digest(options={"n_init": 10, "output_reweight": "source-rank"}) == DIGEST


def test_content_of_an_adapter_changes_it_and_writing_it_again_does_not() -> None:
    recipe, (first, *rest) = Recipe(name="m", rank=4), zoo().adapters
    other = dataclasses.replace(first, adapter_id="x")
    assert make_plan(recipe, inventory(other, *rest)).digest != DIGEST
    assert make_plan(recipe, inventory(*rest)).digest != DIGEST
    touched = make_plan(recipe, inventory(at_version(first, "2"), *rest))
    assert touched.digest == DIGEST
    assert touched.former != make_plan(recipe, zoo()).former


def test_the_digest_of_earlier_releases_is_known() -> None:
    """A literal, from the release before: the outputs it published are recognized by it."""
    made = make_plan(Recipe(name="m", rank=4, weights={"a1": 2.0}), zoo())
    assert made.former == FORMER
    touched = inventory(*(at_version(a, f"{i}") for i, a in enumerate(zoo().adapters)))
    again = make_plan(Recipe(name="m", rank=4, weights={"a1": 2.0}), touched)
    assert again.digest == made.digest
    assert again.former != FORMER
    assert former_digest(again, {a.uri: "1" for a in touched.adapters}) == FORMER


def test_other_arithmetic_is_another_plan_and_the_former_one_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = make_plan(Recipe(name="m", rank=4), zoo())
    monkeypatch.setitem(ARITHMETIC, "lego", 3)
    after = make_plan(Recipe(name="m", rank=4), zoo())
    assert {after.digest, after.work}.isdisjoint({made.digest, made.work})
    assert (after.former, after.earlier) == (made.former, made.earlier)
    monkeypatch.delitem(ARITHMETIC, "lego")
    first = make_plan(Recipe(name="m", rank=4), zoo())
    assert (first.digest, first.work) == made.earlier
    assert first.earlier == ()


def test_what_is_measured_has_no_arithmetic_of_a_method(monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_plan(Recipe(name="m", rank=None, rank_error=0.5), zoo())
    monkeypatch.setitem(ARITHMETIC, "lego", 3)
    assert make_plan(Recipe(name="m", rank=None, rank_error=0.5), zoo()).digest == made.digest


def test_the_memory_budget_changes_tasks_and_not_the_digest() -> None:
    found = inventory(*(adapter(f"a{i}", [factors(s) for s in layers(6)]) for i in range(3)))
    recipe = Recipe(name="m", rank=4)
    whole = make_plan(recipe, found)
    budget = max(site.peak_bytes for task in whole.tasks for site in task.sites)
    cut = make_plan(recipe, found, memory_budget=budget)
    assert len(cut.tasks) > len(whole.tasks)
    assert cut.digest == whole.digest
    assert [s for g in cut.tasks for s in g.sites] == [s for g in whole.tasks for s in g.sites]


def test_a_plan_is_the_same_value_each_time() -> None:
    recipe = Recipe(name="m", rank=4)
    assert make_plan(recipe, zoo()) == make_plan(recipe, zoo())


def test_a_site_is_seeded_by_the_seed_and_its_name_alone() -> None:
    seeds = {site_seed(seed, site) for seed in (0, 1, 2**63 - 1) for site in ("a", "b", "a.b")}
    assert len(seeds) == 9
    assert all(0 <= seed < 2**63 for seed in seeds)
    # A literal: the seeds of published merges may never change.
    assert site_seed(0, "model.layers.0.self_attn.q_proj") == 8488992066850000162
    few = make_plan(Recipe(name="m", rank=4, seed=5), zoo(1))
    many = make_plan(Recipe(name="x", rank=9, seed=5), zoo(7))
    for left, right in zip(few.tasks[0].sites, many.tasks[0].sites, strict=True):
        assert left.seed == right.seed == site_seed(5, left.site)


def test_canonical_json_is_one_text_for_one_value() -> None:
    assert canonical_json({"b": [1, 2.5], "a": None}) == '{"a":null,"b":[1,2.5]}'
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))


def test_planning_opens_nothing_and_asks_no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: object, **kwargs: object) -> None:
        raise AssertionError(f"planning reached outside: {args}")

    recipe, found = Recipe(name="m", rank=4), zoo()
    for name in ("builtins.open", "io.open", "os.open", "os.stat", "socket.socket", "time.time"):
        monkeypatch.setattr(name, forbidden)
    made = make_plan(recipe, found)
    monkeypatch.undo()
    assert made.digest == DIGEST


def test_compact_plans_of_numbered_experts_are_others_than_in_earlier_releases(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those stored each expert at its own rank, which PEFT does not load on transformers 5."""
    experts = adapter("moe", [factors(f"model.layers.0.mlp.experts.{n}.w1") for n in range(2)])

    def digests(compact: bool) -> tuple[str, str]:
        plan = make_plan(Recipe(name="m", rank=4, compact=compact), inventory(experts))
        return plan.digest, plan.work

    now = [digests(compact) for compact in (False, True)]
    monkeypatch.setattr("lego_ray.planning.planner.shares_rank", lambda site: False)
    before = [digests(compact) for compact in (False, True)]
    assert [one == other for one, other in zip(now, before, strict=True)] == [True, False]
    # What is kept of an unfinished run still counts.
    assert now[1][1] == before[1][1]
