"""The revision of the base model: named where the adapters agree, and refused where they differ."""

from __future__ import annotations

import pytest

from lego_ray.errors import BaseModelMismatch
from lego_ray.formats.record import AdapterRecord
from lego_ray.planning.plan import Plan
from lego_ray.planning.planner import make_plan
from lego_ray.planning.recipe import Recipe
from tests.planning.records import adapter, inventory


def at(name: str, revision: str, base_model: str = "tiny/base") -> AdapterRecord:
    config = {"task_type": None, "fan_in_fan_out": False}
    named = {"revision": revision} if revision else {}
    return adapter(name, base_model=base_model, config={**config, **named})


def plan(*adapters: AdapterRecord, **options: object) -> Plan:
    recipe = Recipe(name="m", rank=2, **options)  # type: ignore[arg-type]
    return make_plan(recipe, inventory(*adapters))


def test_two_revisions_are_refused_with_both_named() -> None:
    with pytest.raises(BaseModelMismatch) as caught:
        plan(at("a", "step1"), at("b", "step1"), at("c", "step2"), at("d", ""))
    error = caught.value
    assert error.where == "/zoo/c"
    assert "2 name tiny/base@step1" in error.problem
    assert "1 name tiny/base@step2" in error.problem
    assert "--only-base 'tiny/base@step1'" in error.hint
    assert "--base-model" in error.hint
    assert error.by_base == {
        "tiny/base": ("/zoo/d",),
        "tiny/base@step1": ("/zoo/a", "/zoo/b"),
        "tiny/base@step2": ("/zoo/c",),
    }


def test_the_hints_of_the_refusal_can_be_followed() -> None:
    zoo = (at("a", "step1"), at("b", "step2"), at("c", ""))
    made = plan(*zoo, only_base="tiny/base@step1")
    assert [a.uri for a in made.adapters] == ["/zoo/a"]
    [said] = [w for w in made.warnings if "--only-base" in w]
    assert "1 name tiny/base@step2" in said
    assert "1 name tiny/base" in said
    given = plan(*zoo, base_model="tiny/base")
    assert len(given.adapters) == 3
    [said] = [w for w in given.warnings if "revision" in w]
    assert "(step1, step2), and the merge names none" in said


def test_adapters_that_name_none_go_with_one_that_does_and_it_is_said() -> None:
    made = plan(at("a", "step1"), at("b", ""), at("c", ""))
    [said] = [w for w in made.warnings if "revision" in w]
    assert said.startswith(
        "1 of 3 adapters name the revision step1 of the base model and 2 name none"
    )


def test_one_revision_for_all_needs_no_word() -> None:
    for revision in ("step1", ""):
        made = plan(at("a", revision), at("b", revision))
        assert not [w for w in made.warnings if "revision" in w]
