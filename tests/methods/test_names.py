"""The methods' names and options, which load no torch, are those of their classes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from typing import get_args

import pytest

from lego_ray.errors import InvalidOption
from lego_ray.methods import names
from lego_ray.methods.in_bases import Inner
from lego_ray.methods.lego import Basis, Distance
from lego_ray.methods.names import METHODS, MethodOptions, keyword, takers
from lego_ray.methods.presets import how_to_merge
from lego_ray.methods.registry import class_of, method_of
from lego_ray.numerics.kmeans.reweight import ParameterNorm
from lego_ray.numerics.stacks import Election
from lego_ray.options import keywords_of, renamed
from lego_ray.planning.recipe import Recipe, recipe_from


@pytest.mark.parametrize("name", METHODS)
def test_a_method_has_the_options_of_its_class_in_their_order(name: str) -> None:
    own = fields(class_of(name))
    assert {field.name for field in own} == set(METHODS[name].options)
    assert {field.name: field.default for field in own} == METHODS[name].options
    assert method_of(name, {}).name == name


def test_every_option_is_some_methods() -> None:
    assert all(takers(option) for option in keywords_of(MethodOptions))


def test_the_words_are_those_of_the_types() -> None:
    assert get_args(Basis) == names.BASES
    assert get_args(Distance) == names.DISTANCES
    assert get_args(ParameterNorm) == names.PARAMETER_NORMS
    assert get_args(Election) == names.ELECTIONS
    assert get_args(Inner) == names.INNERS


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("n_init", 0, "--n-init: 0 is not a whole number of at least 1"),
        ("tol", 1.0, "--tol: 1.0 is not a number of at least 0 and below 1"),
        ("density", 0.0, "--density: 0.0 is not a number above 0 and at most 1"),
        ("beta", 1.5, "--beta: 1.5 is not a number of at least 0 and at most 1"),
        ("distance", "l2", "--distance: 'l2' is not one of euclidean, rank-one"),
    ],
)
def test_a_value_out_of_bounds_is_refused_with_the_bounds(
    option: str, value: object, said: str
) -> None:
    with pytest.raises(InvalidOption) as raised:
        keyword(option).check(value)
    assert str(raised.value).startswith(said)
    with pytest.raises(InvalidOption) as again:
        method_of(takers(option)[0], {option: value})
    assert str(again.value) == str(raised.value)


def test_neither_names_nor_options_load_torch() -> None:
    code = (
        "import sys, lego_ray.methods.registry, lego_ray.planning.options, lego_ray.cli.main; "
        "print(*{'torch', 'ray', 'pyarrow', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_an_option_that_was_renamed_is_accepted_and_recorded_as_it_was() -> None:
    now, former = (
        Recipe(name="m", rank=2, options={name: True}) for name in ("normalize", "normalise")
    )
    assert now == former
    assert now.as_json()["options"]["normalise"] is True
    assert "normalize" not in now.as_json()["options"]
    assert recipe_from(now.as_json(), "m") == now
    assert renamed(keywords_of(MethodOptions), {"normalise": True}) == {"normalize": True}
    with pytest.raises(InvalidOption, match="normalize"):
        method_of("lego", {"normalize": True, "normalise": True})
    with pytest.raises(InvalidOption, match="--normalize: True contradicts --preset paper"):
        how_to_merge("paper", None, {"normalise": True}, None)
