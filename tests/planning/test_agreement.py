"""Adapters that do not belong together, and none at all."""

from __future__ import annotations

import pytest

from lego_ray.errors import (
    BaseModelMismatch,
    LegoRayError,
    NoAdaptersFound,
    NonFiniteWeights,
    SiteShapeMismatch,
)
from lego_ray.formats.record import Refused
from lego_ray.formats.site_factors import SiteFactors
from lego_ray.planning.inventory import Inventory
from lego_ray.planning.plan import Plan
from lego_ray.planning.planner import make_plan
from lego_ray.planning.recipe import Recipe
from tests.planning.records import adapter, factors, inventory, zoo


def plan(found: Inventory, **recipe: object) -> Plan:
    return make_plan(Recipe(**{"name": "m", "rank": 4, **recipe}), found, sources=["/zoo"])  # type: ignore[arg-type]


def test_no_adapters_at_all() -> None:
    with pytest.raises(NoAdaptersFound, match=r"/zoo: no adapter_config\.json was found"):
        plan(inventory())


def test_all_refused_says_why_the_first_was() -> None:
    refused = [Refused("/zoo/b", "refused", "X: no"), Refused("/zoo/a", "refused", "DoRA.")]
    with pytest.raises(NoAdaptersFound, match=r"all 2 adapters were refused.*/zoo/a, because DoRA"):
        plan(inventory(refused=refused))


def test_refused_adapters_are_carried_into_the_plan() -> None:
    refused = Refused("/zoo/bad", "refused", "UnsupportedAdapter: DoRA")
    made = plan(inventory(adapter("a"), refused=[refused]))
    assert made.refused == (refused,)
    assert made.as_json()["refused"] == [
        {"adapter": "/zoo/bad", "reason": "UnsupportedAdapter: DoRA"}
    ]


def test_different_base_models_are_named_with_an_adapter_of_the_rarer() -> None:
    found = inventory(adapter("a"), adapter("b"), adapter("odd", base_model="other/base"))
    with pytest.raises(BaseModelMismatch) as caught:
        plan(found)
    assert caught.value.where == "/zoo/odd"
    assert "2 name tiny/base; 1 name other/base" in caught.value.problem
    assert plan(found, base_model="tiny/base").base_model == "tiny/base"


def test_no_base_model_named_is_a_warning() -> None:
    made = plan(inventory(adapter("a", base_model="")))
    assert made.base_model == ""
    assert any("--base-model" in warning for warning in made.warnings)
    given = plan(inventory(adapter("a", base_model="")), base_model="acme/base")
    assert not any("--base-model" in warning for warning in given.warnings)


@pytest.mark.parametrize(
    "other",
    [
        factors("l.0.q", 4, (25, 16)),
        factors("l.0.q", 4, (24, 17)),
        factors("l.0.q", 4, kind="embedding"),
        factors("l.0.q", 4, (24, 16), kind="conv", tail=(6, 2, 2)),
    ],
    ids=["d_in", "d_out", "kind", "conv"],
)
def test_a_shape_clash_names_the_site_and_adapters_of_both_shapes(other: SiteFactors) -> None:
    found = inventory(adapter("a", [factors("l.0.q")]), adapter("b", [other]))
    with pytest.raises(SiteShapeMismatch) as caught:
        plan(found)
    assert caught.value.where == "l.0.q"
    assert "/zoo/a" in caught.value.problem
    assert "/zoo/b" in caught.value.problem
    assert "--exclude" in caught.value.hint


def test_ranks_may_differ_where_shapes_agree() -> None:
    made = plan(inventory(adapter("a", [factors("l.0.q", 4)]), adapter("b", [factors("l.0.q", 9)])))
    assert made.n_msus == 13


def test_fan_in_fan_out_must_agree() -> None:
    flipped = adapter("b", config={"task_type": None, "fan_in_fan_out": True})
    with pytest.raises(SiteShapeMismatch, match="fan_in_fan_out is true here and false in /zoo/a"):
        plan(inventory(adapter("a"), flipped))


def test_the_same_content_twice_is_a_warning_that_names_both() -> None:
    twin = adapter("twin", content="a")
    [warning] = plan(inventory(adapter("a"), twin)).warnings
    assert "/zoo/a, /zoo/twin have the same content" in warning


def test_the_same_adapter_reached_twice_counts_once() -> None:
    made = plan(inventory(adapter("a"), adapter("a"), adapter("b")))
    assert [a.uri for a in made.adapters] == ["/zoo/a", "/zoo/b"]
    assert made.warnings == ()


def test_full_weights_are_kept_from_the_adapter_named_and_no_other() -> None:
    found = inventory(*(adapter(n, full_weights=["score.weight"]) for n in ("a", "b", "c")))
    made = plan(found, full_weights="keep:b")
    assert [bool(a.full_weights) for a in made.adapters] == [False, True, False]
    assert plan(found, full_weights="keep:/zoo/c").adapters[2].full_weights


def test_full_weights_of_an_adapter_that_is_not_there() -> None:
    with pytest.raises(NoAdaptersFound, match=r"--full-weights keep:z.*called z"):
        plan(zoo(), full_weights="keep:z")


def test_quarantine_moves_an_adapter_to_the_refused_with_a_typed_reason() -> None:
    errors: dict[str, LegoRayError] = {"/zoo/a1": NonFiniteWeights("/zoo/a1", "it holds NaN")}
    after = zoo(3).quarantine(errors)
    assert [a.uri for a in after.adapters] == ["/zoo/a0", "/zoo/a2"]
    [refused] = after.refused
    assert (refused.uri, refused.status) == ("/zoo/a1", "quarantined")
    assert refused.reason == f"NonFiniteWeights: {errors['/zoo/a1']}"
    assert "it holds NaN. " in refused.reason
    assert "--exclude" in refused.reason
