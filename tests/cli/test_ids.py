"""Merges and adapters by the first digits of their ids, wherever a command is about one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import lego_ray
from lego_ray.catalog.ids import ids_that_begin
from lego_ray.cli.main import cli
from lego_ray.errors import InvalidOption, NoAdaptersFound
from tests.zoo import write_zoo


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ids")
    write_zoo(root / "zoo", 3)
    lego_ray.merge(
        root / "zoo",
        rank=4,
        output=root / "out",
        name="mine",
        catalog=root / "catalog",
        runner="inline",
        n_init=1,
        updatable=True,
    )
    return root


def asked(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def ids_of(place: Path) -> tuple[str, list[str]]:
    [row] = lego_ray.catalog.list_merges(place / "catalog").to_pylist()
    return row["merge_id"][:12], row["adapter_ids"]


@pytest.mark.parametrize("verb", ["verify", "status", "report", "publish", "update"])
def test_a_command_about_a_merge_takes_its_id_and_its_name(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.chdir(tmp_path)
    more = {"report": ("--output", "page.html"), "publish": ("--to", "there", "--dry-run")}
    merge_id, _ = ids_of(place)
    for named in (merge_id, "mine", place / "out"):
        words = (verb, named, *more.get(verb, ()), "--json")
        done = asked(*words, "--catalog", place / "catalog")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["merge_id"].startswith(merge_id)
    monkeypatch.setenv("LEGO_RAY_CATALOG", str(place / "catalog"))
    assert asked(verb, merge_id, *more.get(verb, ()), "--json").exit_code == 0
    wrong = asked(verb, "mime", *more.get(verb, ())).exception
    assert isinstance(wrong, InvalidOption)
    assert "Did you mean mine?" in str(wrong)


def test_merges_are_compared_by_id_and_name(place: Path, tmp_path: Path) -> None:
    other = lego_ray.merge(
        place / "zoo", rank=2, output=tmp_path / "out", runner="inline", n_init=1
    )["output"]
    merge_id, _ = ids_of(place)
    for named in (merge_id, "mine", place / "out"):
        done = asked("compare", named, other, "--catalog", place / "catalog", "--json")
        assert done.exit_code == 0, done.output
        found = json.loads(done.stdout)["merges"]
        assert [each["rank"] for each in found] == [4, 2]


def test_an_adapter_is_found_by_its_id(place: Path, tmp_path: Path) -> None:
    _, adapters = ids_of(place)
    with_it = asked(
        "catalog", "lineage", "--adapter", adapters[1][:12], "--catalog", place / "catalog"
    )
    assert with_it.exit_code == 0, with_it.output
    recipe = tmp_path / "r.yaml"
    text = f"sources: [{place / 'zoo'}]\noutput: library\ndefaults: {{rank: 2}}\nmerges:\n"
    recipe.write_text(f"{text}  - {{name: one, adapters: ['{adapters[1][:12]}', a0]}}\n")
    built = lego_ray.build(recipe, dry_run=True, runner="inline", output=tmp_path / "library")
    assert len(built["merges"][0]["adapters"]) == len({adapters[1], "a0"})
    recipe.write_text(f"{text}  - {{name: one, adapters: ['0123456789ab']}}\n")
    with pytest.raises(NoAdaptersFound, match="no adapter is called 0123456789ab"):
        lego_ray.build(recipe, dry_run=True, runner="inline", output=tmp_path / "library")
    done = asked(
        *("update", place / "out", "--remove", adapters[0][:12], "--output", tmp_path / "next"),
        *("--runner", "inline", "--json"),
    )
    assert len(json.loads(done.stdout)["removed"]) == 1


def test_fewer_than_six_digits_are_a_name() -> None:
    ids = ["abcdef" + "0" * 58, "abcdef" + "1" * 58]
    assert ids_that_begin("abcde", ids) == []
    assert ids_that_begin("ABCDEF", ids) == ids
    assert ids_that_begin("abcdef1", ids) == ids[1:]
    assert ids_that_begin("french", ids) == []
