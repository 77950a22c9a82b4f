"""What an earlier release made by its default stays as it was, and a line says so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import lego_ray
from lego_ray.cli.main import cli
from lego_ray.errors import OutputExists
from lego_ray.methods.presets import DEFAULT_PRESET, FORMER_DEFAULTS, how_of
from lego_ray.planning.kept_default import with_kept_default
from lego_ray.planning.plan import Plan
from lego_ray.planning.recipe import Recipe
from lego_ray.tasks.values import TaskResult
from tests.zoo import files_of, weights_of, write_adapter, write_zoo

RECIPE = """
sources: [{zoo}]
catalog: {catalog}
output: {output}
defaults: {{rank: 2{how}}}
merges:
  - name: all
  - name: pair
    adapters: [a0, a1]
"""
GROUPS = """
sources: [{zoo}]
catalog: {catalog}
output: {output}
defaults: {{rank: 2{how}}}
merges:
  - name: kind
    groups: 2
"""
KEPT = "no flag meant paper in earlier releases"
# A merge that no word was said of is by one of these, and by the last since this release.
BEFORE = "paper"
pytestmark = pytest.mark.skipif(
    BEFORE not in FORMER_DEFAULTS, reason="no flag still means what it meant"
)
Library = Callable[..., Path]


@pytest.fixture
def library(tmp_path: Path) -> Library:
    """Writes the recipe file, as it is in this release or with the same said in full."""
    write_zoo(tmp_path / "zoo", 4)

    def write(text: str = RECIPE, how: str = "") -> Path:
        places = {name: tmp_path / name for name in ("zoo", "catalog", "output")}
        place = tmp_path / "library.yaml"
        place.write_text(text.format(how=how, **places))
        return place

    return write


def warned(record: dict[str, Any]) -> set[str]:
    """Names of the merges that are said to stay."""
    return {m["name"] for m in record["merges"] if any(KEPT in w for w in m["warnings"])}


def test_a_library_stays_as_it_was_and_its_next_versions_too(
    library: Library, tmp_path: Path
) -> None:
    """By a recipe file that says nothing of how to merge: what the release before made is `paper`."""
    lego_ray.refresh(library(how=f", preset: {BEFORE}"), runner="inline")
    before = files_of(tmp_path / "output")
    for _ in range(2):  # by a look, and by what the look kept
        again = lego_ray.refresh(library(), runner="inline")
        assert again.status == "unchanged"
        assert warned(again) == {"all", "pair"}
    merged = {k: v for k, v in files_of(tmp_path / "output").items() if ".lego-ray" not in k}
    assert merged == {k: v for k, v in before.items() if ".lego-ray" not in k}

    write_adapter(tmp_path / "zoo" / "a9", seed=9)
    more = lego_ray.refresh(library(), runner="inline")
    assert {m["name"]: (m["status"], m["version"]) for m in more["merges"]} == {
        "all": ("published", 2),
        "pair": ("already published", 1),
    }
    assert warned(more) == {"all", "pair"}
    wanted = lego_ray.merge(
        tmp_path / "zoo", rank=2, output=tmp_path / "all", preset=BEFORE, runner="inline"
    )
    made = next(m for m in more["merges"] if m["name"] == "all")
    assert made["merge_id"] == wanted.merge_id
    assert weights_of(made["output"]) == weights_of(wanted.output)
    manifest = json.loads((Path(made["output"]) / "lego_ray_manifest.json").read_text())
    assert not any(KEPT in warning for warning in manifest["warnings"])


def test_a_library_changes_when_its_file_names_the_default(
    library: Library, tmp_path: Path
) -> None:
    lego_ray.refresh(library(how=f", preset: {BEFORE}"), runner="inline")
    found = lego_ray.refresh(library(how=f", preset: {DEFAULT_PRESET}"), runner="inline")
    assert [m["version"] for m in found["merges"]] == [2, 2]
    # From then on it is what no word means too.
    after = lego_ray.refresh(library(), runner="inline")
    assert (after.status, warned(after)) == ("unchanged", set())


def test_a_new_entry_of_such_a_library_is_by_the_default(library: Library, tmp_path: Path) -> None:
    lego_ray.refresh(library(how=f", preset: {BEFORE}"), runner="inline")
    place = library()
    place.write_text(place.read_text() + "  - {name: new, adapters: [a2, a3]}\n")
    found = lego_ray.refresh(place, runner="inline")
    assert warned(found) == {"all", "pair"}
    new = next(m for m in found["merges"] if m["name"] == "new")
    recipe = json.loads((Path(new["output"]) / "lego_ray_manifest.json").read_text())["recipe"]
    assert recipe == Recipe(name="new", rank=2, **how_of(DEFAULT_PRESET)).as_json()


def test_groups_stay_together(library: Library, tmp_path: Path) -> None:
    """Also those that are new: one entry is merged one way."""
    first = lego_ray.refresh(library(GROUPS, f", preset: {BEFORE}"), runner="inline")
    assert first["merges"]
    write_adapter(tmp_path / "zoo" / "a9", seed=9)
    found = lego_ray.refresh(library(GROUPS), runner="inline")
    assert warned(found) == {m["name"] for m in found["merges"]}
    recipes = [
        json.loads((Path(m["output"]) / "lego_ray_manifest.json").read_text())["recipe"]
        for m in found["merges"]
    ]
    assert all("spectrum" not in recipe for recipe in recipes)


@pytest.mark.parametrize("text", [RECIPE, GROUPS], ids=["merges", "groups"])
def test_a_library_that_was_built_is_built_again_as_it_was(
    text: str, library: Library, tmp_path: Path
) -> None:
    lego_ray.build(library(text, f", preset: {BEFORE}"), runner="inline")
    before = files_of(tmp_path / "output")
    found = lego_ray.build(library(text), runner="inline")
    assert {m["status"] for m in found["merges"]} == {"already published"}
    assert warned(found) == {m["name"] for m in found["merges"]}
    assert files_of(tmp_path / "output") == before
    told = CliRunner().invoke(cli, ["build", str(library(text)), "--runner", "inline"])
    assert told.exit_code == 0, told.output
    assert told.stdout.count(KEPT) == 1


def test_a_merge_is_made_again_as_it_was(library: Library, tmp_path: Path) -> None:
    given: dict[str, Any] = {"rank": 2, "output": tmp_path / "m", "runner": "inline"}
    library()
    lego_ray.merge(tmp_path / "zoo", preset=BEFORE, **given)
    before = files_of(tmp_path / "m")
    again = lego_ray.merge(tmp_path / "zoo", **given)
    assert again.status == "already published"
    assert [KEPT in warning for warning in again.warnings] == [True]
    assert files_of(tmp_path / "m") == before
    with pytest.raises(OutputExists, match="spectrum none -> adaptive"):
        lego_ray.merge(tmp_path / "zoo", preset="lego-adaptive", **given)
    # What else differs is said without what does not.
    with pytest.raises(OutputExists) as caught:
        lego_ray.merge(tmp_path / "zoo", **{**given, "rank": 3})
    assert "rank 2 -> 3" in str(caught.value)
    assert "spectrum" not in str(caught.value)


def test_a_merge_that_was_said_in_part_is_not_taken_for_the_default(
    library: Library, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"rank": 2, "output": tmp_path / "m", "runner": "inline"}
    library()
    lego_ray.merge(tmp_path / "zoo", n_init=3, **given)
    with pytest.raises(OutputExists, match="it holds the merge of another plan"):
        lego_ray.merge(tmp_path / "zoo", **given)


def test_a_run_that_was_begun_by_the_former_default_is_named_and_loses_nothing(
    library: Library, tmp_path: Path
) -> None:
    library()
    # Room for one site at a time, so that there is a task for each.
    whole = lego_ray.plan(tmp_path / "zoo", rank=2)
    budget = max(site.peak_bytes for task in whole.tasks for site in task.sites)
    given: dict[str, Any] = {"rank": 2, "output": tmp_path / "m", "runner": "inline"}
    given["memory_budget"] = budget

    def stop(plan: Plan, result: TaskResult | None) -> None:
        if result:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lego_ray.merge(tmp_path / "zoo", preset=BEFORE, progress=stop, **given)
    before = files_of(tmp_path / "m")
    with pytest.raises(OutputExists) as caught:
        lego_ray.merge(tmp_path / "zoo", **given)
    assert f"no flag meant the preset {BEFORE} when that was begun" in caught.value.problem
    assert f"Finish that run with the preset {BEFORE}" in caught.value.hint
    assert files_of(tmp_path / "m") == before
    done = lego_ray.merge(tmp_path / "zoo", preset=BEFORE, **given)
    assert done.resumed_sites > 0
    # Of another rank, the difference is not the default's.
    shutil.rmtree(tmp_path / "m")
    with pytest.raises(KeyboardInterrupt):
        lego_ray.merge(tmp_path / "zoo", preset=BEFORE, progress=stop, **{**given, "rank": 1})
    with pytest.raises(OutputExists, match="the options or the adapters differ"):
        lego_ray.merge(tmp_path / "zoo", **given)


def test_an_update_and_a_refit_keep_their_merges_recipe(library: Library, tmp_path: Path) -> None:
    given: dict[str, Any] = {"rank": 2, "runner": "inline"}
    library()
    lego_ray.merge(tmp_path / "zoo", output=tmp_path / "m", updatable=True, **given)
    write_adapter(tmp_path / "new", seed=9)
    for refit in (False, True):
        made = lego_ray.update(
            tmp_path / "m",
            add=tmp_path / "new",
            output=tmp_path / f"v2-{refit}",
            runner="inline",
            refit=refit,
        )
        manifest = json.loads((Path(made.output) / "lego_ray_manifest.json").read_text())
        assert "spectrum" not in manifest["recipe"]
        assert manifest["recipe"]["output_scale"] == 1.0
    lego_ray.merge(tmp_path / "zoo", output=tmp_path / "d", **given)
    refitted = lego_ray.update(
        tmp_path / "d", add=tmp_path / "new", output=tmp_path / "d2", runner="inline", refit=True
    )
    recipe = json.loads((Path(refitted.output) / "lego_ray_manifest.json").read_text())["recipe"]
    wanted = Recipe(name="d", rank=2, **how_of(DEFAULT_PRESET))
    assert (recipe["method"], recipe["output_scale"]) == (wanted.method, wanted.output_scale)
    assert recipe.get("spectrum", 1.0) == wanted.spectrum


def test_what_cannot_be_read_counts_as_nothing() -> None:
    asked = Recipe(name="m", rank=2, **how_of(DEFAULT_PRESET), by_default=True)
    assert with_kept_default(asked, [{"method": "of another release"}, {}]) is asked
    assert with_kept_default(Recipe(name="m", rank=2), [asked.as_json()]).notes == ()
    (note,) = with_kept_default(asked, [{}, Recipe(name="o", rank=9).as_json()]).notes
    assert KEPT in note
