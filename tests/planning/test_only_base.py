"""`--only-base`: the adapters of one base model are taken, and how many others there are is said."""

from __future__ import annotations

import pickle

import pytest

from lego_ray.errors import BaseModelMismatch, NoAdaptersFound
from lego_ray.planning.plan import Plan
from lego_ray.planning.planner import make_plan
from lego_ray.planning.recipe import Recipe, recipe_from
from tests.planning.records import adapter, inventory

ZOO = inventory(
    adapter("a"),
    adapter("b"),
    adapter("odd", base_model="other/base"),
    adapter("old", base_model="other/base-v1"),
    adapter("silent", base_model=""),
)


def plan(only_base: str, **options: object) -> Plan:
    recipe = Recipe(name="m", rank=2, only_base=only_base, **options)  # type: ignore[arg-type]
    return make_plan(recipe, ZOO)


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("tiny/base", ["a", "b"]),
        ("TINY/Base", ["a", "b"]),
        ("tiny/*", ["a", "b"]),
        ("other/base", ["odd"]),
    ],
)
def test_the_adapters_of_one_are_planned_and_the_others_counted(
    name: str, taken: list[str]
) -> None:
    made = plan(name)
    assert sorted(a.uri for a in made.adapters) == [f"/zoo/{each}" for each in taken]
    [said] = [w for w in made.warnings if "--only-base" in w]
    assert said.startswith(f"--only-base {name} left out {5 - len(taken)} adapters: ")
    assert "1 name (none)" in said


def test_the_merge_is_that_of_these_adapters_however_they_were_chosen() -> None:
    these = inventory(*(a for a in ZOO.adapters if a.base_model == "tiny/base"))
    assert plan("tiny/base").digest == make_plan(Recipe(name="m", rank=2), these).digest
    assert plan("tiny/*").digest == plan("tiny/base").digest


def test_weights_may_name_adapters_of_the_others() -> None:
    made = plan("tiny/base", weights={"odd": 3.0, "b": 0.5})
    by_uri = dict(zip((a.uri for a in made.adapters), made.weights, strict=True))
    assert by_uri == {"/zoo/a": 1.0, "/zoo/b": 0.5}


def test_a_pattern_of_several_is_still_refused() -> None:
    with pytest.raises(BaseModelMismatch, match="1 name other/base; 1 name other/base-v1"):
        plan("other/*")


@pytest.mark.parametrize(
    ("name", "hint"), [("tiny/bass", "Did you mean tiny/base?"), ("gpt", "lego-ray scan")]
)
def test_one_that_no_adapter_names_is_refused(name: str, hint: str) -> None:
    with pytest.raises(NoAdaptersFound, match=f"--only-base {name}") as caught:
        plan(name)
    assert hint in caught.value.hint
    assert "2 name tiny/base" in caught.value.problem


def test_it_is_recorded_and_read_again() -> None:
    recipe = Recipe(name="m", rank=2, only_base="tiny/*")
    assert recipe_from(recipe.as_json(), "here") == recipe
    assert "only_base" not in Recipe(name="m", rank=2).as_json()


def test_a_refusal_has_the_adapters_by_base() -> None:
    with pytest.raises(BaseModelMismatch, match="--only-base 'other/base'") as caught:
        make_plan(
            Recipe(name="m", rank=2),
            inventory(
                adapter("a"),
                adapter("x", base_model="other/base"),
                adapter("y", base_model="other/base"),
            ),
        )
    wanted = {"other/base": ("/zoo/x", "/zoo/y"), "tiny/base": ("/zoo/a",)}
    assert caught.value.by_base == wanted
    assert pickle.loads(pickle.dumps(caught.value)).by_base == wanted
