"""Factors on sites by name: which they mean, what they change in a plan, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from lego_ray.errors import InvalidOption, NonFiniteWeights
from lego_ray.planning.planner import make_plan
from lego_ray.planning.recipe import Recipe
from lego_ray.planning.scales import site_scales_of
from tests.planning.records import adapter, factors, inventory, zoo

Q0, V0, Q1, V1 = SITES = [
    f"model.layers.{layer}.{name}" for layer in (0, 1) for name in ("q_proj", "v_proj")
]


def plan_of(scales: Any, **recipe: Any) -> Any:
    return make_plan(Recipe(name="m", rank=4, site_scales=scales, **recipe), zoo())


def scales_in(plan: Any) -> dict[str, float]:
    return {s.site: s.scale for g in plan.tasks for s in g.sites if s.scale != 1}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        (Q0, {Q0}),
        ("q_proj", {Q0, Q1}),
        ("0.q_proj", {Q0}),
        ("*.q_proj", {Q0, Q1}),
        ("layers.1.*", {Q1, V1}),
        ("model.layers.1.*", {Q1, V1}),
        ("[qv]_proj", set(SITES)),
        ("*", set(SITES)),
    ],
)
def test_a_name_means_the_sites_that_end_in_it(name: str, meant: set[str]) -> None:
    assert scales_in(plan_of({name: 3.0})) == dict.fromkeys(meant, 3.0)


def test_paths_stand_before_names_and_names_before_patterns() -> None:
    scales = {"*": 0.5, "q_proj": 2.0, Q1: 3.0}
    wanted = {Q0: 2.0, Q1: 3.0, V0: 0.5, V1: 0.5}
    assert scales_in(plan_of(scales)) == wanted
    assert scales_in(plan_of(dict(reversed(scales.items())))) == wanted
    assert scales_in(plan_of({"*": 0.5, "q_proj": 1.0})) == {V0: 0.5, V1: 0.5}


def test_two_that_count_alike_and_disagree_are_refused() -> None:
    with pytest.raises(InvalidOption, match=r"0\.q_proj is meant by \*layers.*=3, \*q_proj=2"):
        plan_of({"*q_proj": 2.0, "*layers.0*": 3.0})
    assert scales_in(plan_of({"*q_proj": 2.0, "*layers.0.q*": 2.0})) == {Q0: 2.0, Q1: 2.0}


@pytest.mark.parametrize("name", ["k_proj", "layers.2.*", "proj", "odel.layers.0.q_proj"])
def test_a_name_of_no_site_is_refused(name: str) -> None:
    with pytest.raises(InvalidOption, match=f"no site is called {name}"):
        plan_of({name: 2.0})


def test_the_nearest_name_is_told() -> None:
    with pytest.raises(InvalidOption, match=r"Did you mean q_proj\?"):
        plan_of({"q_prj": 2.0})


@pytest.mark.parametrize(
    "wrong", [{"q_proj": 0}, {"q_proj": "2"}, {"q_proj": True}, {"": 2.0}, {1: 2.0}, ["q_proj"]]
)
def test_what_is_no_mapping_to_numbers_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidOption, match="--site-scale"):
        Recipe(name="m", rank=4, site_scales=wrong)


def test_the_digest_is_of_the_factors_sites_have_and_not_of_names() -> None:
    none = plan_of({}).digest
    assert plan_of({"q_proj": 1.0}).digest == none
    twice = plan_of({"q_proj": 2.0}).digest
    assert twice != none
    assert plan_of({Q0: 2, Q1: 2}).digest == twice
    assert plan_of({Q0: 2}).digest not in (none, twice)
    rules = {
        plan_of({}, output_scale=s).digest for s in (1, 2, "sum-fit", "sum-fit*2", "source-norm")
    }
    assert len(rules) == 5
    assert plan_of({}, output_scale="sum-fit*1").digest in rules


def test_a_site_that_went_with_a_bad_adapter_may_still_be_named() -> None:
    scales = {"head": 2.0, "q_proj": 3.0}
    whole = inventory(adapter("a"), adapter("b", [factors("model.head"), factors(Q0)]))
    assert (
        scales_in(make_plan(Recipe(name="m", rank=4, site_scales=scales), whole))["model.head"] == 2
    )
    left = whole.quarantine({"/zoo/b": NonFiniteWeights("/zoo/b", "NaN")})
    plan = make_plan(Recipe(name="m", rank=4, site_scales=scales), left)
    assert scales_in(plan) == {Q0: 3.0, Q1: 3.0}


def test_sites_are_taken_as_given() -> None:
    assert site_scales_of([], {"a": 2.0}, complete=False) == {}
