"""What no flag means: one preset, unless a word is said of how to merge; and what such a word means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import lego_ray
from lego_ray.cli.main import cli
from lego_ray.errors import InvalidOption, MalformedAdapter
from lego_ray.methods import presets
from lego_ray.methods.presets import (
    DEFAULT_PRESET,
    FORMER_DEFAULTS,
    PRESETS,
    UPDATABLE_DEFAULT,
    how_of,
)
from lego_ray.methods.registry import method_of
from lego_ray.methods.updatable import check_updatable
from lego_ray.planning.recipe import NOT_RECORDED, Recipe, recipe_from
from lego_ray.planning.recipe_file import parse_recipe_file
from tests.zoo import write_zoo

# One word of how to merge each, as a call says it.
WORDS: list[dict[str, Any]] = [
    {"method": "lego"},
    {"n_init": 10},
    {"distance": "euclidean"},
    {"spectrum": 1.0},
    {"output_scale": 1.0},
]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_zoo(tmp_path_factory.mktemp("default") / "zoo", 2)


def digest(zoo: Path, **given: Any) -> str:
    return lego_ray.plan(zoo, rank=2, name="m", **given).digest


def test_no_flag_is_the_default_preset_and_what_else_is_asked_for_changes_nothing(
    zoo: Path,
) -> None:
    default = digest(zoo, preset=DEFAULT_PRESET)
    assert digest(zoo) == default
    assert digest(zoo, preset=None, method=None, spectrum=None, output_scale=None) == default
    more: dict[str, Any] = {"seed": 3, "dtype": "BF16", "weights": {"a0": 2.0}, "compact": True}
    assert digest(zoo, **more) == digest(zoo, preset=DEFAULT_PRESET, **more)


@pytest.mark.parametrize("word", WORDS, ids=str)
def test_one_word_of_how_to_merge_leaves_the_others_plain(word: dict[str, Any], zoo: Path) -> None:
    """Each of these says what plain `lego` is, so it is the merge that no flag gave before."""
    assert digest(zoo, **word) == digest(zoo, preset="paper")


def test_a_word_that_is_not_plain_changes_that_alone(zoo: Path) -> None:
    plain = Recipe(name="m", rank=2)
    for word in ({"spectrum": 0.5}, {"output_scale": "sum-fit"}, {"method": "svd"}):
        found = lego_ray.plan(zoo, rank=2, name="m", **word).recipe
        assert found == Recipe(name="m", rank=2, **word)
        assert found != plain
    lego = lego_ray.plan(zoo, rank=2, name="m", basis="svd").recipe
    assert lego == Recipe(name="m", rank=2, options={"basis": "svd"})


def test_the_paper_has_the_digest_of_no_flag_in_the_release_before(zoo: Path) -> None:
    """By that release, of the same adapters. What is not said of a recipe is plain `lego`."""
    assert digest(zoo, preset="paper") == digest(zoo, method="lego", spectrum=1, output_scale=1)
    paper = lego_ray.plan(zoo, rank=2, name="m", preset="paper").recipe
    assert paper == Recipe(name="m", rank=2)
    assert paper.as_json() == Recipe(name="m", rank=2).as_json()


def test_of_a_file_no_word_is_the_default_and_one_word_is_not() -> None:
    text = """
sources: [zoo]
defaults: {rank: 2}
merges:
  - name: unsaid
  - name: said
    options: {n_init: 3}
  - name: named
    preset: paper
  - name: seeded
    seed: 4
"""
    entries = parse_recipe_file(text, "r.yaml").entries
    unsaid, said, named, seeded = (entry.recipe for entry in entries)
    assert unsaid == Recipe(name="unsaid", rank=2, **how_of(DEFAULT_PRESET))
    assert seeded == Recipe(name="seeded", rank=2, seed=4, **how_of(DEFAULT_PRESET))
    assert said == Recipe(name="said", rank=2, options={"n_init": 3})
    assert named == Recipe(name="named", rank=2)
    assert [e.by_default for e in (unsaid, said, named, seeded)] == [True, False, False, True]


def test_updatable_is_a_merge_that_can_be_updated_and_says_so_once(zoo: Path) -> None:
    made = lego_ray.plan(zoo, rank=2, name="m", updatable=True)
    paper = lego_ray.plan(zoo, rank=2, name="m", updatable=True, preset=UPDATABLE_DEFAULT)
    assert made.digest == paper.digest
    said = f"the default, {DEFAULT_PRESET}, keeps no running sums"
    assert [said in warning for warning in made.warnings] == [True] * (DEFAULT_PRESET != "paper")
    assert paper.warnings == ()
    how = how_of(UPDATABLE_DEFAULT)
    method = method_of(how["method"], how["options"])
    check_updatable(method, how["output_scale"], "refuse", how["spectrum"])
    with pytest.raises(InvalidOption, match="--updatable"):
        lego_ray.plan(zoo, rank=2, updatable=True, preset="lego-adaptive")


@pytest.mark.parametrize("name", ["paper", "adaptive", "lego-adaptive"])
def test_the_default_stands_in_one_place(
    name: str, zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presets, "DEFAULT_PRESET", name)
    assert digest(zoo) == digest(zoo, preset=name)
    updatable = lego_ray.plan(zoo, rank=2, name="m", updatable=True)
    assert updatable.digest == digest(zoo, preset="paper", updatable=True)
    assert bool(updatable.warnings) == (name != "paper")


def test_the_default_is_a_preset_and_those_of_before_are_others() -> None:
    assert DEFAULT_PRESET in PRESETS
    assert DEFAULT_PRESET not in FORMER_DEFAULTS
    assert {*FORMER_DEFAULTS} <= PRESETS.keys()
    marked = [name for name, each in PRESETS.items() if "what no flag gives" in each.use]
    assert marked == [DEFAULT_PRESET]


def test_where_a_recipe_comes_from_is_not_recorded_and_not_read() -> None:
    recipe = Recipe(name="m", rank=2, by_default=True, notes=("said",))
    assert recipe == Recipe(name="m", rank=2)
    assert not {*NOT_RECORDED} & recipe.as_json().keys()
    for name in NOT_RECORDED:
        with pytest.raises(MalformedAdapter, match=f"{name} is not a field of a recipe"):
            recipe_from({**recipe.as_json(), name: True}, "merge m")


def test_help_names_the_default() -> None:
    # Lines are cut at spaces and at hyphens.
    shown = "".join(CliRunner().invoke(cli, ["merge", "--help"]).output.split())
    assert f"[default:{DEFAULT_PRESET},ifnootheroptionsayshowtomerge]" in shown
    listed = CliRunner().invoke(cli, ["methods", DEFAULT_PRESET]).output
    assert "what no flag gives" in listed
