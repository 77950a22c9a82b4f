"""What `--space` and the options of a merge leave to search, and the merge that a choice stands for."""

from __future__ import annotations

from typing import Any

import pytest

from lego_ray.errors import InvalidOption
from lego_ray.methods.presets import PRESETS
from lego_ray.planning.arguments import recipe_of
from lego_ray.storage.uri import parse_uri
from lego_ray.tuning.space import DEFAULT_PRESETS, Choice, Range, scaled_by, space_of


def test_without_a_word_presets_scale_spectrum_and_weights_are_searched() -> None:
    space = space_of((), {"rank": 8})
    assert space.presets == DEFAULT_PRESETS
    assert (space.scale, space.spectrum, space.weights) == ((0.25, 4), (0, 1), (0.25, 4))
    assert space.ranks == (8,)


def test_what_is_named_is_searched() -> None:
    words = ["preset=iso,paper", "scale=0.5..2", "weights=1", "spectrum=preset", "rank=8,16"]
    space = space_of(words, {})
    assert space.presets == ("iso", "paper")
    assert (space.scale, space.spectrum, space.weights) == ((0.5, 2), None, (1, 1))
    assert space.ranks == (8, 16)


def test_options_of_the_merge_that_are_given_are_not_searched() -> None:
    given = {"rank": 8, "method": "ties", "output_scale": "sum-fit", "weights": {"a": 2.0}}
    space = space_of((), {**given, "spectrum": 0.5, "density": 0.3})
    assert space.presets == ()
    assert not space.scale.is_open
    assert not space.weights.is_open
    assert space.spectrum is None
    options = space.first(None).options({**given, "spectrum": 0.5, "density": 0.3})
    assert options == {**given, "spectrum": 0.5, "density": 0.3}


@pytest.mark.parametrize(
    ("words", "given", "problem"),
    [
        (["size=3"], {"rank": 8}, "not KEY=VALUES"),
        (["scale"], {"rank": 8}, "not KEY=VALUES"),
        (["scale=1", "scale=2"], {"rank": 8}, "is given '1' and '2'"),
        (["scale=0..2"], {"rank": 8}, "not above 0"),
        (["scale=2..1"], {"rank": 8}, "not a number or LOW..HIGH"),
        (["spectrum=flat"], {"rank": 8}, "not a number or LOW..HIGH"),
        (["preset=best"], {"rank": 8}, "'best' is not one of"),
        (["rank=8,x"], {}, "not a list of ranks"),
        (["rank=8"], {"rank": 8}, "--rank fixes it"),
        (["weights=1..2"], {"rank": 8, "weights": {"a": 1.0}}, "--weight fixes it"),
        (["preset=iso"], {"rank": 8, "method": "svd"}, "--method fixes it"),
        ([], {"rank": 8, "density": 0.3}, "--density: it is an option of some methods"),
        ([], {}, "--rank: a search needs the rank as a number"),
        ([], {"rank": "auto"}, "'auto' is no number"),
    ],
)
def test_what_cannot_be_searched_is_bad_input(
    words: list[str], given: dict[str, Any], problem: str
) -> None:
    with pytest.raises(InvalidOption, match=problem):
        space_of(words, given)


@pytest.mark.parametrize("preset", list(PRESETS))
def test_a_preset_as_it_is_is_the_preset(preset: str) -> None:
    place = parse_uri("merged")
    wanted = recipe_of(place, {"preset": preset, "rank": 8})
    assert recipe_of(place, Choice(preset, 8).options({})) == wanted  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("scale", "factor", "wanted"),
    [
        (1.0, 1.0, 1.0),
        (1.0, 1.5, 1.5),
        ("adaptive", 1.0, "adaptive"),
        ("adaptive", 0.5, "adaptive*0.5"),
        ("adaptive:2.0", 1.5, "adaptive:2.0*1.5"),
        ("source-norm*2", 0.5, "source-norm*1.0"),
    ],
)
def test_a_scale_is_multiplied(scale: float | str, factor: float, wanted: float | str) -> None:
    assert scaled_by(scale, factor) == wanted
    options = {"rank": 8, "output_scale": scaled_by(scale, factor)}
    recipe_of(parse_uri("merged"), options)  # type: ignore[arg-type]


def test_a_choice_survives_json() -> None:
    choice = Choice("iso", 8, 1.5, 0.25, {"a": 2.0})
    assert Choice(**choice.as_json()) == choice


def test_shares_of_a_range() -> None:
    found = Range(0.25, 4.0)
    assert [found.at(share, log=True) for share in (-1, 0, 0.5, 1, 2)] == [0.25, 0.25, 1, 4, 4]
    assert found.share_of(1.0, log=True) == pytest.approx(0.5)
    assert Range(0.0, 1.0).at(0.25, log=False) == 0.25
    assert Range(2.0, 2.0).share_of(2.0, log=True) == 0.5
