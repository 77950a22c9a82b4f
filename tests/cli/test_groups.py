"""`lego-ray build` with groups: what it shows, what it takes, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lego_ray.cli.main import cli
from lego_ray.errors import InvalidOption
from tests.families import FAMILIES, STRANGER, write_family_zoo
from tests.zoo import files_of


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    zoo = write_family_zoo(tmp_path / "zoo", FAMILIES | STRANGER)
    place = tmp_path / "library.yaml"
    place.write_text(
        f"sources: [{zoo}]\ncatalog: {tmp_path / 'catalog'}\noutput: {tmp_path / 'out'}\n"
        "defaults: {rank: 4, options: {n_init: 2}}\n"
        "merges: [{name: fit, groups: {count: 3, alone_below: 0.4}}]\n"
    )
    return place


def invoke(*words: object) -> Result:
    return CliRunner().invoke(cli, [*map(str, words)])


def test_the_groups_are_shown_before_and_after_they_are_merged(recipe: Path) -> None:
    asked = ("build", recipe, "--runner", "inline", "--groups", 2)
    dry = invoke(*asked, "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert "dry run: nothing was written" in dry.stdout
    assert not (recipe.parent / "out").exists()
    made = invoke(*asked)
    assert made.exit_code == 0, made.output
    for shown in (dry.stdout, made.stdout):
        assert "groups   fit: 2 of 6 adapters, 1 alone; silhouette 0." in shown
        assert f"alone    {recipe.parent / 'zoo/f-half-german'}, cosine 0." in shown
        assert "2 merges of 6 adapters" in shown
    before = files_of(recipe.parent)
    record = json.loads(invoke(*asked, "--json").stdout)
    assert files_of(recipe.parent) == before
    [found] = record["groups"]
    assert (found["name"], found["count"], found["alone_below"]) == ("fit", 2, 0.4)
    assert [g["merge_id"] for g in found["groups"]] == [m["merge_id"] for m in record["merges"]]

    catalog = recipe.parent / "catalog"
    text = invoke("catalog", "show", "fit-1", "--catalog", catalog)
    assert text.exit_code == 0, text.output
    assert "nearest_group" in text.stdout
    shown = json.loads(invoke("catalog", "show", "fit-1", "--catalog", catalog, "--json").stdout)
    assert {row["group_name"] for row in shown["groups"]} == {"fit-1"}
    assert len(shown["groups"]) == 3


@pytest.mark.parametrize("groups", ["0", "few"])
def test_what_is_no_number_of_groups_is_refused(groups: str, recipe: Path) -> None:
    before = files_of(recipe.parent)
    done = invoke("build", recipe, "--runner", "inline", "--groups", groups)
    assert "--groups" in (str(done.exception) if groups == "0" else done.stderr)
    assert getattr(done.exception, "exit_code", done.exit_code) == 2
    assert files_of(recipe.parent) == before


def test_a_library_without_groups_has_none_to_count(recipe: Path) -> None:
    recipe.write_text(recipe.read_text().replace("groups: {count: 3, alone_below: 0.4}", "seed: 1"))
    done = invoke("build", recipe, "--runner", "inline", "--groups", "auto")
    assert isinstance(done.exception, InvalidOption)
    assert "has `groups`" in str(done.exception)
