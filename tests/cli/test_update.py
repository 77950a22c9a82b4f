"""`lego-ray update` as people and scripts use it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import lego_ray
from lego_ray.cli.main import cli
from lego_ray.errors import UpdateImpossible
from tests.zoo import files_of, weights_of, write_adapter, write_zoo


def ask(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


@pytest.fixture
def merged(tmp_path: Path) -> Path:
    zoo = write_zoo(tmp_path / "zoo", 3)
    write_adapter(tmp_path / "more" / "new", seed=9)
    write_adapter(tmp_path / "more" / "other", seed=10)
    flags = ("--rank", 4, "--n-init", 2, "--runner", "inline", "--updatable")
    done = ask("merge", zoo, "--output", tmp_path / "m", *flags, "--catalog", tmp_path / "catalog")
    assert done.exit_code == 0, done.output
    return tmp_path / "m"


def test_json_is_what_the_call_returns(merged: Path) -> None:
    more = merged.parent / "more"
    where = ("--runner", "inline", "--json")
    done = ask(
        "update", merged, "--add", more / "new", more / "other", "--remove", "a0", "a1", *where
    )
    assert done.exit_code == 0, done.output
    record: dict[str, Any] = json.loads(done.stdout)
    called = lego_ray.update(
        merged, add=[more / "new", more / "other"], remove=["a0", "a1"], runner="inline"
    )
    assert called["status"] == "already published"
    for key in ("merge_id", "parent", "version", "added", "removed", "adapters", "drift"):
        assert record[key] == called[key]
    assert [Path(uri).name for uri in record["removed"]] == ["a0", "a1"]
    assert record.keys() >= {"output", "catalog", "refused", "sites", "rank", "seconds"}


def test_people_are_told_the_version_the_drift_and_the_way_back(merged: Path) -> None:
    catalog = ("--catalog", merged.parent / "catalog", "--runner", "inline")
    done = ask("update", merged, "--add", merged.parent / "more" / "new", *catalog)
    assert done.exit_code == 0, done.output
    assert "published: version 2, 1 added, 0 removed, 4 adapters at rank 4" in done.output
    assert "drift    " in done.output
    done = ask("update", f"{merged}-v2", "--remove", "new", *catalog)
    assert "version 3, 0 added, 1 removed" in done.output
    assert weights_of(f"{merged}-v3") == weights_of(merged)
    done = ask("catalog", "lineage", "m", *catalog[:2])
    assert f"version 2 of m, {merged}-v2" in done.output
    assert f"version 1 of m, {merged}" in done.output
    told = json.loads(ask("catalog", "lineage", "m", *catalog[:2], "--json").stdout)
    assert [each["version"] for each in told["parents"]] == [2, 1]


def test_nothing_to_do_is_said_and_starts_nothing(merged: Path) -> None:
    before = files_of(merged.parent)
    done = ask("update", merged)
    assert (done.exit_code, done.output) == (
        0,
        "nothing to do: give --add, --remove or --refit\n",
    )
    assert files_of(merged.parent) == before


def test_bad_input_is_an_error_that_says_what_to_do(merged: Path) -> None:
    done = ask("update", merged, "--remove", "b0", "--runner", "inline")
    assert "There are a0, a1, a2." in str(done.exception)
    lego_ray.merge(merged.parent / "zoo", rank=2, output=merged.parent / "p", runner="inline")
    done = ask("update", merged.parent / "p", "--remove", "a0", "--runner", "inline")
    assert isinstance(done.exception, UpdateImpossible)
    assert done.exception.exit_code == 2
    done = ask("update", merged.parent / "p", "--remove", "a0", "--refit", "--runner", "inline")
    assert done.exit_code == 0, done.output
    assert "version 2" in done.output


def test_a_recipe_file_asks_for_running_sums(merged: Path) -> None:
    place = merged.parent / "library.yaml"
    place.write_text(
        f"sources: [{merged.parent / 'zoo'}]\ndefaults: {{rank: 4, updatable: true}}\n"
        "merges: [{name: a}, {name: b, method: svd, updatable: false}]\n"
    )
    done = ask("build", place, "--output", merged.parent / "out", "--runner", "inline")
    assert done.exit_code == 0, done.output
    more = merged.parent / "more" / "new"
    assert (
        ask("update", merged.parent / "out" / "a", "--add", more, "--runner", "inline").exit_code
        == 0
    )
    place.write_text(place.read_text().replace(", updatable: false", ""))
    done = ask("build", place, "--output", merged.parent / "again", "--runner", "inline")
    assert "merges[1].updatable: the svd method needs every adapter at once" in str(done.exception)
