"""Presets: what a name stands for, and that nothing beside it says otherwise."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import lego_ray
from lego_ray.errors import InvalidOption, RecipeError
from lego_ray.methods.lego import Lego
from lego_ray.methods.presets import DEFAULT_PRESET, PRESETS, how_to_merge
from lego_ray.methods.registry import method_of
from lego_ray.methods.scaling import checked_output_scale
from lego_ray.methods.spectrum import checked_spectrum
from lego_ray.planning.recipe_file import parse_recipe_file
from tests.zoo import write_zoo


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_method_with_options_it_has(name: str) -> None:
    preset = PRESETS[name]
    made = method_of(preset.method, preset.options)
    assert all(getattr(made, option) == value for option, value in preset.options.items())
    checked_output_scale(preset.output_scale)
    checked_spectrum(preset.spectrum)


def test_the_paper_is_what_lego_does_untold() -> None:
    paper = PRESETS["paper"]
    assert method_of(paper.method, paper.options) == Lego()
    # Every option that changes what the method is, and not how hard it tries, is settled.
    assert set(Lego.__dataclass_fields__) - set(paper.options) == {"n_init", "max_iter", "tol"}


def test_a_merge_by_preset_is_the_merge_written_out(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 2)
    named = lego_ray.plan(zoo, rank=2, preset="paper", n_init=3)
    assert named.digest == lego_ray.plan(zoo, rank=2, n_init=3).digest
    written = lego_ray.plan(zoo, rank=2, method="iso", output_scale="source-norm*2")
    assert lego_ray.plan(zoo, rank=2, preset="iso").digest == written.digest
    assert named.recipe.options["n_init"] == 3


def test_what_a_preset_settles_may_be_said_again() -> None:
    assert how_to_merge("paper", "lego", {"balance": False}, 1.0)["method"] == "lego"


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({"preset": "papier"}, "--preset"),
        ({"preset": "paper", "method": "svd"}, "--method"),
        ({"preset": "paper", "balance": True}, "--balance"),
        ({"preset": "paper", "output_scale": "sum-fit"}, "--output-scale"),
    ],
    ids=str,
)
def test_what_contradicts_a_preset_is_refused(
    given: dict[str, object], where: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidOption) as caught:
        lego_ray.plan(write_zoo(tmp_path / "zoo", 2), rank=2, **given)  # type: ignore[arg-type]
    assert caught.value.where == where


UNSAID = (
    PRESETS[DEFAULT_PRESET].method,
    PRESETS[DEFAULT_PRESET].output_scale,
    {"lego": 10}.get(PRESETS[DEFAULT_PRESET].method),
)
FILE = """
sources: [zoo]
defaults: {rank: 4, DEFAULTS}
merges:
  - {name: m, MERGE}
"""


def entry(defaults: str, merge: str) -> tuple[str, float | str, object]:
    text = FILE.replace("DEFAULTS", defaults).replace("MERGE", merge)
    (found,) = parse_recipe_file(text, "r.yaml").entries
    return found.recipe.method, found.recipe.output_scale, found.recipe.options.get("n_init")


@pytest.mark.parametrize(
    ("defaults", "merge", "wanted"),
    [
        ("seed: 1", "seed: 2", UNSAID),
        ("preset: paper", "options: {n_init: 3}", ("lego", 1.0, 3)),
        ("method: svd, output_scale: 2", "preset: paper", ("lego", 1.0, 10)),
        ("preset: paper", "method: svd, output_scale: 2", ("svd", 2.0, None)),
    ],
)
def test_a_merge_of_a_file_has_its_own_preset_or_method(
    defaults: str, merge: str, wanted: tuple[object, ...]
) -> None:
    assert entry(defaults, merge) == wanted


@pytest.mark.parametrize(
    ("merge", "fault"),
    [
        ("preset: papers", "merges[0].preset: 'papers' is not one of"),
        ("preset: paper, method: svd", "merges[0].method: 'svd' contradicts --preset paper"),
        ("preset: paper, options: {basis: svd}", "merges[0].options.basis: 'svd' contradicts"),
    ],
)
def test_a_file_names_what_contradicts_a_preset(merge: str, fault: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(fault)):
        entry("seed: 1", merge)
