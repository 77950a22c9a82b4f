"""A recipe file searched: as the flags would, its merge's adapters alone, and passed over by `build`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import lego_ray
from lego_ray.errors import InvalidOption, RecipeError
from lego_ray.methods.presets import DEFAULT_PRESET
from tests.tuning.target import VARIABLE
from tests.zoo import write_zoo

SCORER = "tests.tuning.target:score"
RECIPE = """
sources: [{root}/zoo]
output: {root}/library
catalog: {root}/catalog
merges:
  - {{name: ours, rank: 8, seed: 4, adapters: [a0, a2], dtype: F32}}
"""
SECTION = """
tune:
  space: {{preset: [paper, iso], scale: [0.5, 2], spectrum: preset}}
  score: {scorer}
  trials: 4
  objective: {{q_proj: 2, v_proj: 1}}
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_zoo(tmp_path / "zoo", 3)
    told = {"zoo": str(tmp_path / "zoo"), "weights": {"a0": 1.6, "a1": 0.4, "a2": 0.8}}
    monkeypatch.setenv(VARIABLE, json.dumps(told))
    return tmp_path


def write(root: Path, text: str = RECIPE + SECTION, name: str = "recipe.yaml") -> Path:
    file = root / name
    file.write_text(text.format(root=root, scorer=SCORER))
    return file


def trials(study: Path) -> list[dict[str, Any]]:
    found = [json.loads(file.read_text()) for file in sorted((study / "trials").iterdir())]
    return [{**trial, "seconds": 0} for trial in found]


def test_a_recipe_file_is_searched_as_its_flags_are(root: Path) -> None:
    by_file = lego_ray.tune(write(root))
    by_flags = lego_ray.tune(
        [root / "zoo" / "a0", root / "zoo" / "a2"],
        output=root / "flags" / "ours",
        rank=8,
        seed=4,
        dtype="F32",
        score=SCORER,
        trials=4,
        objective="weighted",
        task_weights={"q_proj": 2.0, "v_proj": 1.0},
        space=["preset=paper,iso", "scale=0.5..2", "spectrum=preset"],
    )
    assert by_file.output == str(root / "library" / "ours")
    assert by_file.catalog == str(root / "catalog")
    assert by_file.study_id == by_flags.study_id
    assert trials(root / "library" / "ours-study") == trials(root / "flags" / "ours-study")
    for key in ("best", "options", "report", "differences"):
        assert by_file[key] == by_flags[key]
    assert by_file.merge["merge_id"] == by_flags.merge["merge_id"]
    for key in ("adapter_model.safetensors", "adapter_config.json"):
        files = [root / name / "ours" / key for name in ("library", "flags")]
        assert files[0].read_bytes() == files[1].read_bytes()
    rows = lego_ray.catalog.sql(root / "catalog", "SELECT study_id FROM trials").to_pylist()
    assert [row["study_id"] for row in rows] == [by_file.study_id] * 4


def test_build_passes_the_section_over(root: Path) -> None:
    with_it = lego_ray.build(write(root, RECIPE + "tune: {{nothing: known}}\n"), runner="inline")
    plain = write(root, RECIPE, "plain.yaml")
    again = lego_ray.build(plain, output=root / "again", catalog=root / "other", runner="inline")
    assert with_it["merges"][0]["merge_id"] == again["merges"][0]["merge_id"]
    files = [root / name / "ours" / "adapter_model.safetensors" for name in ("library", "again")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_one_trial_of_a_preset_is_the_merge_that_build_makes(root: Path) -> None:
    space = [f"preset={DEFAULT_PRESET}", "scale=1"]
    record = lego_ray.tune(write(root), output=root / "best" / "ours", space=space, trials=1)
    built = lego_ray.build(root / "recipe.yaml", runner="inline")
    assert record.merge["merge_id"] == built["merges"][0]["merge_id"]


def test_a_condition_and_a_catalog_choose_the_adapters(root: Path) -> None:
    lego_ray.scan(root / "zoo", catalog=root / "catalog")
    text = f"catalog: {root}/catalog\nmerges: [{{name: some, rank: 4, where: name != 'a1'}}]\n"
    file = root / "where.yaml"
    file.write_text(text)
    record = lego_ray.tune(
        file, output=root / "some", score=SCORER, trials=1, space=["preset=paper"]
    )
    same = lego_ray.merge(
        [root / "zoo" / "a0", root / "zoo" / "a2"],
        output=root / "other" / "some",
        rank=4,
        preset="paper",
    )
    assert record.merge["merge_id"] == same["merge_id"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("merges: [{name: a, rank: 2}, {name: b, rank: 2}]", "exactly one merge.* makes a, b"),
        ("merges: [{name: a, ranks: [2, 4]}]", "makes a-rank-2, a-rank-4; to search ranks"),
        ("merges: [{name: a, rank: 2, groups: 2}]", r"merges\[0\].groups: tune makes one merge"),
        (
            "merges: [{name: a, rank: 2, sites: {q_proj: {rank: 1}}}]",
            r"merges\[0\].sites: tune has one rank",
        ),
        ("merges: [{name: a, rank: 2}]\ntune: {trails: 3}", "tune.trails: no such key"),
        ("merges: [{name: a, rank: 2}]\ntune: 3", "tune: 3; expected a mapping"),
    ],
)
def test_a_file_that_cannot_be_searched_says_why(root: Path, text: str, fault: str) -> None:
    file = root / "bad.yaml"
    file.write_text(f"sources: [zoo]\n{text}\n")
    with pytest.raises(RecipeError, match=fault):
        lego_ray.tune(file, output=root / "best", score=SCORER)
    assert not (root / "best-study").exists()


def test_what_is_missing_is_named(root: Path) -> None:
    file = root / "short.yaml"
    file.write_text("sources: [zoo]\nmerges: [{name: a, rank: 2}]\n")
    with pytest.raises(InvalidOption, match="merge a has no output"):
        lego_ray.tune(file, score=SCORER)
    with pytest.raises(InvalidOption, match="nothing says how a merge is scored"):
        lego_ray.tune(file, output=root / "best")
    with pytest.raises(InvalidOption, match="is a recipe file, which names the sources"):
        lego_ray.tune([file, root / "zoo"], output=root / "best", score=SCORER)
    with pytest.raises(InvalidOption, match="nothing says where the best merge goes"):
        lego_ray.tune(root / "zoo", rank=2, score=SCORER)


def test_the_command_takes_it_with_flags_before_the_file(root: Path) -> None:
    write(root, RECIPE + SECTION.replace("  trials: 4\n", "  trials: 64\n  output: best\n"))
    words = ["tune", "recipe.yaml", "--trials", "1", "--rank", "4", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "lego_ray", *words],
        cwd=root,
        env={
            **os.environ,
            "LEGO_RAY_CATALOG": str(root / "elsewhere"),
            "PYTHONPATH": str(Path.cwd()),
        },
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert (record["trials"], record["best"]["parameters"]["rank"]) == (1, 4)
    assert record["output"] == str(root / "best")
    # The file's catalog comes before the environment's.
    assert record["catalog"] == str(root / "catalog")
    assert not (root / "elsewhere").exists()
