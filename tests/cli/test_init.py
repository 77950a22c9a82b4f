"""`lego-ray init` writes a recipe file that builds, whatever the zoo is called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import lego_ray
from lego_ray.cli.main import cli
from lego_ray.errors import NoAdaptersFound, ObjectNotFound, OutputExists
from lego_ray.planning.recipe_file import parse_recipe_file
from tests.zoo import WEIGHTS, Site, write_adapter


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LEGO_RAY_CATALOG", raising=False)
    return tmp_path


def built(recipe: str) -> dict[str, int]:
    """Adapters of each merge that the file makes."""
    record = lego_ray.build(recipe, runner="inline")
    assert record["failed"] == []
    return {merge["name"]: len(merge["adapters"]) for merge in record["merges"]}


def test_each_base_model_is_a_merge_and_the_file_builds(folder: Path) -> None:
    for number, (name, base, rank) in enumerate(
        [("a", "acme/One", 4), ("b", "acme/One", 8), ("c", "other/one", 4), ("d", "x/two", 4)]
    ):
        write_adapter(folder / "zoo" / name, seed=number, base_model=base, rank=rank)
    bad = write_adapter(folder / "zoo" / "bad")
    (bad / WEIGHTS).write_bytes(b"no weights")
    record = lego_ray.init("zoo", library="lib", catalog="cat")
    assert (record.adapters, len(record.refused)) == (4, 1)
    assert [(m["name"], m["adapters"], m["rank_max"]) for m in record.merges] == [
        ("one", 2, 8),
        ("one.2", 1, 4),
        ("two", 1, 4),
    ]
    text = (folder / "recipe.yaml").read_text()
    assert text == record.text
    assert "# 5 found: 4 usable, 1 refused." in text
    assert "rank: 4    # the adapters have ranks 4 to 8" in text
    library = parse_recipe_file(text, "recipe.yaml")
    assert (library.sources, library.output, library.catalog) == (("zoo",), "lib", "cat")
    assert built("recipe.yaml") == {"one": 2, "one.2": 1, "two": 1}


def test_what_cannot_be_merged_is_a_comment_with_the_reason(folder: Path) -> None:
    for name, d_out in (("a", 10), ("b", 12)):
        site = (Site("layers.0.q_proj", (12,), d_out),)
        write_adapter(folder / "zoo" / name, sites=site, base_model="acme/odd")
    write_adapter(folder / "zoo" / "c", base_model="acme/good")
    record = lego_ray.init("zoo")
    assert [bool(m["problem"]) for m in record.merges] == [False, True]
    text = (folder / "recipe.yaml").read_text()
    assert "# It cannot be merged as it is: " in text
    assert "  # - name: odd\n" in text
    assert built("recipe.yaml") == {"good": 1}


def test_tags_become_examples_that_hold_once_their_marks_are_taken_away(folder: Path) -> None:
    tasks = ["qa", "qa", "qa", 'it\'s "odd"', 'it\'s "odd"', "alone"]
    for number, task in enumerate(tasks):
        rank = 8 if number < 2 else 4
        adapter = write_adapter(folder / "zoo" / f"a{number}", seed=number, rank=rank)
        card = json.dumps({"tags": {"task": task, "title": f"Title {number}", "owner": "all"}})
        (adapter / "README.md").write_text(f"---\n{card}\n---\n")
    lego_ray.init("zoo")
    lines = (folder / "recipe.yaml").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("  # - name"))
    shown = [f"  {line.removeprefix('  # ')}" for line in lines[start:]]
    (folder / "all.yaml").write_text("\n".join([*lines[:start], *shown]))
    # No merge of one adapter, such as of a title, and none of all of them.
    parts = {"base-qa": 3, "base-it-s-odd": 2, "base-rank-4": 4, "base-rank-8": 2}
    assert built("all.yaml") == {"base": 6, **parts}


@pytest.mark.parametrize(
    "base",
    ["a\nmerges: []", "x: y", "# no", "it's [a] *", "null", "", "ünï/cödé", "a/b/", "\u202eevil"],
)
def test_any_name_of_a_base_model_is_text(folder: Path, base: str) -> None:
    write_adapter(folder / "zoo" / "a", base_model=base)
    write_adapter(folder / "zoo" / "b", base_model="acme/one", seed=1)
    lego_ray.init("zoo")
    assert sorted(built("recipe.yaml").values()) == [1, 1]


def test_no_file_is_replaced(folder: Path) -> None:
    write_adapter(folder / "zoo" / "a")
    (folder / "recipe.yaml").write_text("mine")
    with pytest.raises(OutputExists, match="a file exists here"):
        lego_ray.init("zoo")
    assert (folder / "recipe.yaml").read_text() == "mine"


def test_without_adapters_nothing_is_written(folder: Path) -> None:
    (folder / "zoo").mkdir()
    (folder / "bad").mkdir()
    (write_adapter(folder / "bad" / "a") / WEIGHTS).write_bytes(b"no weights")
    for source, error in (("zoo", NoAdaptersFound), ("bad", NoAdaptersFound)):
        with pytest.raises(error):
            lego_ray.init(source)
    with pytest.raises(ObjectNotFound):
        lego_ray.init("nowhere")
    assert not (folder / "recipe.yaml").exists()


def test_the_command_says_what_it_found_and_what_is_next(folder: Path) -> None:
    write_adapter(folder / "zoo" / "a")
    words = [
        "init",
        "zoo",
        "--output",
        "mine.yaml",
        "--checkpoints",
        "all",
        "--scan-limit",
        "bytes=9e6",
    ]
    done = CliRunner().invoke(cli, words, env={"LEGO_RAY_CATALOG": "cat"})
    assert done.exit_code == 0, done.output
    assert "1 usable, 0 refused; 1 merge\n" in done.stdout
    library = parse_recipe_file((folder / "mine.yaml").read_text(), "mine.yaml")
    assert (library.catalog, library.checkpoints) == ("cat", "all")
    assert library.scan_limits.bytes == 9_000_000
    told: dict[str, Any] = json.loads(
        CliRunner().invoke(cli, ["init", "zoo", "--json", "--output", "b.yaml"]).stdout
    )
    assert told["recipe"] == str(folder / "b.yaml")
