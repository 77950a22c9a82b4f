"""The section `tune` of a recipe file: what it says, its faults with paths, and what a flag changes."""

from __future__ import annotations

from typing import Any

import pytest

from lego_ray.errors import RecipeError
from lego_ray.formats.strict_yaml import load_strict
from lego_ray.tuning.precedence import asked_of
from lego_ray.tuning.section import Section, read_section

GOOD = """
space: {preset: [adaptive, paper], scale: [0.5, 2], spectrum: preset, weights: 1, rank: [8, 16]}
score: {texts: rows.jsonl, base: hf://acme/model}
budget: 12
objective: {french: 2, medical: 1}
seed: 7
time_limit_per_trial: 60
study: studies/one
output: best
"""


def read(text: str, *, has_base: bool = False) -> Section:
    said = load_strict(text)
    assert isinstance(said, dict)
    return read_section(said, "r.yaml", has_base=has_base)


def test_what_a_section_says() -> None:
    section = read(GOOD)
    assert section.space == {
        "preset": "adaptive,paper",
        "scale": "0.5..2",
        "spectrum": "preset",
        "weights": "1",
        "rank": "8,16",
    }
    assert section.options == {
        "score_texts": "rows.jsonl",
        "base": "hf://acme/model",
        "trials": 12,
        "objective": "weighted",
        "task_weights": {"french": 2.0, "medical": 1.0},
        "seed": 7,
        "time_limit_per_trial": 60,
        "study": "studies/one",
    }
    assert section.output == "best"


def test_what_is_left_out_is_not_given() -> None:
    section = read("score: scoring:score\nobjective: min\nspace: {preset: iso, spectrum: 0..0.5}")
    assert section.options == {"score": "scoring:score", "objective": "min"}
    assert section.space == {"preset": "iso", "spectrum": "0..0.5"}
    assert read("{}") == Section({}, {})


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("spaec: {}", ["tune.spaec: no such key. Did you mean space?"]),
        (
            "space: {density: 1}",
            ["tune.space.density: no such key. There are preset, scale, spectrum, weights, rank"],
        ),
        (
            "space: {preset: pepper, scale: [2, 1], rank: 0}",
            [
                "tune.space.preset: 'pepper' is not one of paper, adaptive, lego-adaptive, core-space, "
                "iso, rank-one",
                "tune.space.scale: scale=2..1 is not a number or LOW..HIGH",
                "tune.space.rank: rank=0 is not a list of ranks, such as 8,16",
            ],
        ),
        (
            "space: {scale: [1, 2, 3], weights: true}",
            [
                "tune.space.scale: [1, 2, 3]; expected a number, or [low, high]",
                "tune.space.weights: True; expected a number, or [low, high]",
            ],
        ),
        (
            "score: {comand: x}",
            ["tune.score.comand: no such key. Did you mean command?"],
        ),
        (
            "score: {command: x, texts: y}",
            ["tune.score: expected either a command, or texts with a base"],
        ),
        (
            "score: {command: x, base: y}",
            ["tune.score.base: expected it with texts, which it scores"],
        ),
        (
            "objective: max",
            [
                "tune.objective: 'max'; expected score, mean, min, weighted, or the weight of each task"
            ],
        ),
        (
            "objective: {a: -1}",
            [
                "tune.objective: {'a': -1}; expected score, mean, min, weighted, or the weight of each "
                "task"
            ],
        ),
        ("trials: 0", ["tune.trials: 0; expected at least 1"]),
        (
            "{trials: 2, budget: 2}",
            ["tune.budget: it takes the place of trials; expected one of the two"],
        ),
        ("time_limit_per_trial: 0", ["tune.time_limit_per_trial: 0; expected more than 0"]),
    ],
)
def test_every_fault_has_its_path(text: str, faults: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        read(text)
    assert [*caught.value.faults] == faults


def test_the_file_has_one_base_model() -> None:
    with pytest.raises(RecipeError, match=r"tune\.score\.base: the file has base too"):
        read("score: {texts: a, base: b}", has_base=True)
    assert read("score: {texts: a}", has_base=True).options == {"score_texts": "a"}


MERGE = {"name": "m", "rank": 8, "method": "ties", "density": 0.3, "output_scale": 0.5, "seed": 1}
SECTION = Section(
    {"scale": "0.5..2"},
    {"score": "a:b", "trials": 9, "objective": "weighted", "task_weights": {"x": 2.0}},
)


@pytest.mark.parametrize(
    ("flags", "gone", "space"),
    [
        ({}, {"output_scale"}, ["scale=0.5..2"]),
        ({"trials": 3}, {"output_scale"}, ["scale=0.5..2"]),
        ({"rank": 16}, {"output_scale"}, ["scale=0.5..2"]),
        ({"output_scale": 2.0}, set(), []),
        ({"space": ("scale=1",)}, {"output_scale"}, ["scale=1"]),
        ({"space": ("rank=8,16",)}, {"output_scale", "rank"}, ["scale=0.5..2", "rank=8,16"]),
        (
            {"space": ("preset=iso",)},
            {"output_scale", "method", "density"},
            ["scale=0.5..2", "preset=iso"],
        ),
        ({"preset": "iso"}, {"output_scale", "method", "density"}, ["scale=0.5..2"]),
        ({"method": "svd"}, {"output_scale", "density"}, ["scale=0.5..2"]),
        ({"method": "ties"}, {"output_scale"}, ["scale=0.5..2"]),
        ({"score_texts": "t"}, {"output_scale", "score"}, ["scale=0.5..2"]),
        ({"objective": "min"}, {"output_scale", "task_weights"}, ["scale=0.5..2"]),
        ({"objective": "weighted"}, {"output_scale"}, ["scale=0.5..2"]),
    ],
)
def test_a_flag_comes_before_the_file(
    flags: dict[str, Any], gone: set[str], space: list[str]
) -> None:
    kept = {name: v for name, v in {**MERGE, **SECTION.options}.items() if name not in gone}
    assert asked_of(MERGE, SECTION, flags) == {**kept, **flags, "space": space}


def test_the_seed_of_the_section_comes_before_that_of_the_merge() -> None:
    assert asked_of(MERGE, Section({}, {"seed": 5}), {})["seed"] == 5
    assert asked_of(MERGE, Section({}, {"seed": 5}), {"seed": 6})["seed"] == 6
