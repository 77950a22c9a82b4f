"""A recipe: checked when it is made, recorded in full."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from lego_ray.errors import InvalidOption
from lego_ray.methods.lego import Lego
from lego_ray.methods.names import as_recorded
from lego_ray.planning.options import LARGEST_SEED
from lego_ray.planning.recipe import NOT_RECORDED, Recipe


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({"rank": 0}, "--rank"),
        ({"rank": -3}, "--rank"),
        ({"rank": 2.0}, "--rank"),
        ({"rank": True}, "--rank"),
        ({"rank": "8"}, "--rank"),
        ({"seed": -1}, "--seed"),
        ({"seed": LARGEST_SEED + 1}, "--seed"),
        ({"seed": "0"}, "--seed"),
        ({"name": ""}, "--name"),
        ({"name": "a/b"}, "--name"),
        ({"dtype": "float32"}, "--dtype"),
        ({"full_weights": "maybe"}, "--full-weights"),
        ({"full_weights": "keep"}, "--full-weights"),
        ({"full_weights": "keep:"}, "--full-weights"),
        ({"full_weights": "drop:x"}, "--full-weights"),
        ({"method": "legoo"}, "--method"),
        ({"output_scale": 0}, "--output-scale"),
        ({"output_scale": float("nan")}, "--output-scale"),
        ({"output_scale": "2"}, "--output-scale"),
        ({"options": {"n_init": 0}}, "--n-init"),
        ({"options": {"max_iter": 0}}, "--max-iter"),
        ({"options": {"tol": 1.0}}, "--tol"),
        ({"options": {"tol": float("nan")}}, "--tol"),
        ({"options": {"distance": "cosine"}}, "--distance"),
        ({"options": {"basis": "qr"}}, "--basis"),
        ({"options": {"parameter_reweight": "l1"}}, "--parameter-reweight"),
        ({"options": {"output_reweight": "rank"}}, "--output-reweight"),
        ({"options": {"output_reweight": float("inf")}}, "--output-reweight"),
    ],
    ids=str,
)
def test_a_bad_value_is_refused_by_the_name_of_its_flag(given: dict[str, Any], where: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        Recipe(**{"name": "m", "rank": 4, **given})
    assert caught.value.where == where
    assert caught.value.exit_code == 2


def test_an_unknown_option_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InvalidOption, match=r"n_inits.*Did you mean n_init\?"):
        Recipe(name="m", rank=4, options={"n_inits": 3})


def test_the_widest_values_are_taken() -> None:
    recipe = Recipe(name="m", rank=1, seed=LARGEST_SEED, full_weights="keep:a", dtype="BF16")
    assert recipe.seed == LARGEST_SEED


def test_the_record_has_every_field_and_every_option_with_its_default() -> None:
    record = Recipe(name="m", rank=4, options={"n_init": 3}).as_json()
    fields = {field.name for field in dataclasses.fields(Recipe)} - {*NOT_RECORDED}
    # Of which releases before had no word.
    assert record.keys() == fields - {"layout", "base", "spectrum", "only_base"}
    asked = Recipe(
        name="m", rank=4, layout="kohya", base="/models/llama", spectrum=0.5, only_base="x"
    )
    assert asked.as_json().keys() == fields
    assert record["options"].keys() == as_recorded(dataclasses.asdict(Lego())).keys()
    assert record["options"]["n_init"] == 3
    assert record["options"]["max_iter"] == Lego().max_iter
    assert json.loads(json.dumps(record)) == record


def test_a_recipe_can_be_made_again_from_its_record() -> None:
    recipe = Recipe(name="m", rank=4, exclude=("a*",), options={"output_reweight": 0.5})
    record = recipe.as_json()
    again = Recipe(**{**record, "exclude": tuple(record["exclude"])})
    assert again == recipe


def test_ten_restarts_are_the_default() -> None:
    assert Recipe(name="m", rank=4).as_json()["options"]["n_init"] == 10
