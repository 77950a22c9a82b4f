"""Weights by name: whom they mean, what they change in a plan, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lego_ray.errors import InvalidOption
from lego_ray.formats.record import Refused
from lego_ray.planning.inventory import Inventory
from lego_ray.planning.planner import make_plan
from lego_ray.planning.recipe import Recipe
from lego_ray.planning.weights import weights_of
from tests.planning.records import adapter, inventory, zoo


def plan_of(found: Inventory, weights: Any) -> Any:
    return make_plan(Recipe(name="m", rank=4, weights=weights), found)


def at(*uris: str) -> Inventory:
    return inventory(*(replace(adapter(str(i)), uri=uri) for i, uri in enumerate(uris)))


@pytest.mark.parametrize(
    ("name", "uri"),
    [
        ("a", "/zoo/fr/a"),
        ("fr/a", "/zoo/fr/a"),
        ("zoo/fr/a", "/zoo/fr/a"),
        ("/zoo/fr/a", "/zoo/fr/a"),
        ("f*/a", "/zoo/fr/a"),
        ("/zoo/*", "/zoo/fr/a"),
        ("*", "/zoo/fr/a"),
        ("a[1]", "/zoo/a[1]"),
        ("s3://zoo/fr/a", "s3://zoo/fr/a"),
        ("owner/name", "hf://owner/name@0123abc"),
        ("name/sub", "hf://owner/name@0123abc/sub"),
        ("hf://owner/name@0123abc", "hf://owner/name@0123abc"),
    ],
)
def test_a_name_means_the_adapters_that_end_in_it(name: str, uri: str) -> None:
    assert weights_of(at(uri, "/elsewhere/b"), {name: 3.0, "/elsewhere/b": 1.0}) == (3.0, 1.0)


def test_a_pattern_does_not_reach_into_folders_above() -> None:
    found = at("/zoo/fr/a", "/zoo/b")
    assert weights_of(found, {"b": 2.0, "zoo/*": 3.0}) == (1.0, 2.0)
    with pytest.raises(InvalidOption, match="no adapter is called f"):
        weights_of(found, {"f*": 2.0})


def test_names_stand_before_patterns_and_uris_before_names() -> None:
    found = at("/zoo/a", "/zoo/b", "/zoo/sub/a")
    weights = {"*": 0.5, "a": 2.0, "/zoo/a": 3.0}
    assert weights_of(found, weights) == (3.0, 0.5, 2.0)
    assert weights_of(found, dict(reversed(weights.items()))) == (3.0, 0.5, 2.0)


def test_two_that_count_alike_must_agree() -> None:
    with pytest.raises(InvalidOption, match=r"/zoo/ab is meant by \*b=2, a\*=1"):
        weights_of(at("/zoo/ab"), {"a*": 1.0, "*b": 2.0})
    assert weights_of(at("/zoo/ab"), {"a*": 2.0, "*b": 2.0}) == (2.0,)


def test_a_name_of_no_adapter_is_refused_with_the_nearest() -> None:
    found = at("/zoo/french", "/zoo/german")
    with pytest.raises(InvalidOption, match=r"frech\. Did you mean french\?") as caught:
        weights_of(found, {"frech": 2.0})
    assert caught.value.where == "--weight"
    with pytest.raises(InvalidOption, match=r"There are french, german"):
        weights_of(found, {"x": 2.0})


def test_a_refused_adapter_may_be_named() -> None:
    """Or a plan made again without a quarantined adapter would fail over its weight."""
    found = inventory(adapter("a"), refused=[Refused("/zoo/bad", "quarantined", "NaN")])
    assert plan_of(found, {"bad": 2.0}).weights == (1.0,)


@pytest.mark.parametrize(
    "weights",
    [
        {"a0": float("nan")},
        {"a0": float("inf")},
        {"a0": "2"},
        {"a0": True},
        {"": 1.0},
        {1: 1.0},
        [1],
    ],
    ids=str,
)
def test_what_is_no_weight_is_refused(weights: Any) -> None:
    with pytest.raises(InvalidOption) as caught:
        Recipe(name="m", rank=4, weights=weights)
    assert caught.value.where == "--weight"


def test_weights_are_planned_in_the_adapters_order() -> None:
    made = plan_of(zoo(), {"a1": 2})
    assert made.weights == (1.0, 2.0, 1.0)
    assert [a["weight"] for a in made.as_json()["adapters"]] == [1.0, 2.0, 1.0]


def test_a_weight_of_one_leaves_the_digest_as_it_was() -> None:
    plain = plan_of(zoo(), {})
    assert plan_of(zoo(), {"*": 1.0}).digest == plain.digest
    # A literal: plans that were named before there were weights are found by that name.
    assert plain.former == "80ab843c0e9e2ab11346bb8a410918bbbf52ab8b455d8304f8a2b8d1008e7e22"


def test_the_digest_has_what_weights_mean_and_not_their_names() -> None:
    wanted = plan_of(zoo(), {"a1": 2.0}).digest
    assert wanted != plan_of(zoo(), {}).digest
    assert wanted != plan_of(zoo(), {"a1": 3.0}).digest
    assert wanted != plan_of(zoo(), {"a2": 2.0}).digest
    assert wanted == plan_of(zoo(), {"/zoo/a1": 2.0}).digest
    swapped = inventory(*(adapter(f"a{(i + 1) % 3}", content=f"a{i}") for i in range(3)))
    assert wanted != plan_of(swapped, {"a1": 2.0}).digest
    assert wanted == plan_of(swapped, {"a2": 2.0}).digest


def test_an_adapter_of_weight_zero_is_left_out_and_said_so() -> None:
    made = plan_of(zoo(), {"a1": 0})
    assert [a.uri for a in made.adapters] == ["/zoo/a0", "/zoo/a2"]
    assert made.weights == (1.0, 1.0)
    assert made.warnings == ("/zoo/a1 has weight 0 and is left out",)
    assert made.digest == plan_of(inventory(adapter("a0"), adapter("a2")), {}).digest
    with pytest.raises(InvalidOption, match="every adapter has weight 0"):
        plan_of(zoo(), {"*": 0.0})
