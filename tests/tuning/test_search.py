"""The next trials: a pure function of the trials so far, that finds what there is to find."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from lego_ray.tuning.search import FIRST, Tried, best_of, next_choices
from lego_ray.tuning.space import DEFAULT_PRESETS, Choice, Space, space_of

ADAPTERS = tuple(f"s3://zoo/a{number}" for number in range(4))
SPACE = space_of((), {"rank": 8}).of(ADAPTERS)
# What the value falls by when everything is as wrong as the space allows is some ten times this.
NEAR = 0.25


def hidden(choice: Choice) -> float | None:
    """Best at lego-adaptive, scale 1.4 and weights of 2, 1, 0.7 and 0.7; iso fails."""
    if choice.preset == "iso":
        return None
    wanted = dict(zip(ADAPTERS, (2.0, 1.0, 0.7, 0.7), strict=True))
    weights = [choice.scale * choice.weights.get(uri, 1.0) for uri in ADAPTERS]
    apart = sum(
        math.log(w / (1.4 * wanted[uri])) ** 2 for w, uri in zip(weights, ADAPTERS, strict=True)
    )
    return -apart - (choice.preset != "lego-adaptive") - (choice.spectrum is not None)


def searched(
    count: int,
    space: Space = SPACE,
    *,
    seed: int = 0,
    most: int = 1,
    value: Callable[[Choice], float | None] = hidden,
) -> list[Tried]:
    tried: list[Tried] = []
    while len(tried) < count:
        choices = next_choices(space, seed, tried, min(most, count - len(tried)))
        assert 1 <= len(choices) <= most
        tried += [Tried(len(tried) + n, c, value(c)) for n, c in enumerate(choices)]
    return tried


def test_presets_as_they_are_come_first_and_then_the_best_at_other_norms() -> None:
    tried = searched(9)
    assert [t.choice for t in tried[:5]] == [Choice(preset, 8) for preset in DEFAULT_PRESETS]
    assert {t.choice.preset for t in tried[5:]} == {"lego-adaptive"}
    assert [t.choice.scale for t in tried[5:]] == [1.5, 0.6667, 2.0, 0.5]


def test_the_optimum_is_found() -> None:
    tried = searched(64)
    best, first = best_of(tried), best_of(tried[:5])
    assert best is not None
    assert best.value is not None
    assert first is not None
    assert first.value is not None
    assert first.value < -10 * NEAR**2
    assert best.choice.preset == "lego-adaptive"
    assert best.value > -NEAR


def test_the_same_arguments_give_the_same_choices() -> None:
    assert searched(40) == searched(40)
    assert searched(40, most=3) == searched(40, most=3)
    assert searched(40)[20:] != searched(40, seed=1)[20:]


def test_any_trial_follows_from_those_before_it_alone() -> None:
    tried = searched(40)
    for number in (0, 7, 12, FIRST, FIRST + 3, 30):
        [choice] = next_choices(SPACE, 0, tried[:number], 1)
        assert choice == tried[number].choice


def test_several_at_once_differ_and_stay_within_their_part() -> None:
    tried = searched(9)
    choices = next_choices(SPACE, 0, tried, 100)
    assert len(choices) == FIRST - 9
    assert len({str(choice) for choice in choices}) == len(choices)


def test_all_is_within_the_space() -> None:
    words = ["preset=iso,paper", "scale=0.8..1.25", "weights=0.9..1.1", "spectrum=0.2..0.4"]
    space = space_of([*words, "rank=4,8"], {}).of(ADAPTERS)
    for each in searched(50, space):
        choice = each.choice
        assert choice.preset in ("iso", "paper")
        assert 0.8 <= choice.scale <= 1.25
        assert choice.rank in (4, 8)
        assert choice.spectrum is None or 0.2 <= choice.spectrum <= 0.4
        assert all(0.9 <= weight <= 1.1 for weight in choice.weights.values())


@pytest.mark.parametrize(
    "words",
    [
        ["preset=iso", "scale=1", "weights=1", "spectrum=preset"],
        ["preset=iso", "scale=1..2", "weights=1", "spectrum=preset"],
        ["preset=iso", "scale=1", "weights=1", "spectrum=0..1"],
        ["preset=iso", "scale=1", "weights=0.5..2", "spectrum=0.5"],
    ],
)
def test_small_spaces_are_searched_too(words: list[str]) -> None:
    space = space_of(words, {"rank": 8}).of(ADAPTERS)
    assert len(searched(24, space, value=lambda choice: choice.scale)) == 24


def test_the_weight_of_a_lone_adapter_is_its_scale() -> None:
    tried = searched(24, SPACE.of(ADAPTERS[:1]), value=lambda choice: -abs(choice.scale - 1.2))
    assert all(not each.choice.weights for each in tried)


def test_when_all_fail_the_search_goes_on() -> None:
    assert len(searched(30, value=lambda choice: None)) == 30
    assert best_of(searched(3, value=lambda choice: None)) is None


def test_of_equal_trials_the_first_is_the_best() -> None:
    best = best_of(searched(10, value=lambda choice: 1.0))
    assert best is not None
    assert best.number == 0
