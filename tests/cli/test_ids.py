"""Merges and adapters by the first digits of their ids, wherever a command is about one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import lego_ray
from lego_ray.catalog.ids import ids_that_begin
from lego_ray.cli.main import cli
from lego_ray.errors import InvalidOption, NoAdaptersFound
from lego_ray.planning.selection import without
from lego_ray.planning.weights import weights_of
from tests.planning.records import adapter, inventory
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


def test_an_adapter_is_left_out_and_weighted_by_its_id(place: Path, tmp_path: Path) -> None:
    _, ids = ids_of(place)
    zoo = place / "zoo"
    uris = {a.adapter_id: a.uri for a in lego_ray.plan(zoo, rank=2).adapters}
    left = [uris[each] for each in sorted(ids)[1:]]
    for digits in (6, 12, 64):
        short = sorted(ids)[0][:digits].upper()
        scanned = json.loads(asked("scan", zoo, "--exclude", short, "--json").stdout)
        assert [a["uri"] for a in scanned["adapters"]] == left
        assert not [w for w in scanned["warnings"] if "matches nothing" in w]
        assert scanned["counts"]["excluded"] == 1
        weighted = json.loads(
            asked("plan", zoo, "--rank", 2, "--weight", f"{short}=3", "--json").stdout
        )
        assert [a["weight"] for a in weighted["adapters"]] == [3, 1, 1]
        by_name = lego_ray.plan(zoo, rank=2, weights={uris[sorted(ids)[0]].rsplit("/")[-1]: 3})
        assert weighted["plan"] == by_name.digest
    scanned = json.loads(asked("scan", zoo, "--exclude", "0123456789ab", "--json").stdout)
    assert (
        "--exclude '0123456789ab' matches nothing that lies under the sources"
        in scanned["warnings"]
    )
    wrong = asked("plan", zoo, "--rank", 2, "--weight", "0123456789ab=3").exception
    assert "no adapter is called 0123456789ab" in str(wrong)
    both = asked(
        *("plan", zoo, "--rank", 2, "--weight", f"{sorted(ids)[0][:12]}=3"),
        *("--weight", f"{uris[sorted(ids)[0]]}=2"),
    ).exception
    assert isinstance(both, InvalidOption)
    assert "has weight 2, and 3 by " in str(both)


def test_a_recipe_leaves_out_and_weights_by_id(place: Path, tmp_path: Path) -> None:
    _, ids = ids_of(place)
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"sources: [{place / 'zoo'}]\noutput: library\ndefaults: {{rank: 2}}\nmerges:\n"
        f"  - {{name: two, exclude: ['{ids[0][:12]}'], weights: {{'{ids[1][:12]}': 2}}}}\n"
        f"  - {{name: grouped, groups: 2, weights: {{'{ids[1][:12]}': 2}}}}\n"
    )
    built = lego_ray.build(recipe, dry_run=True, runner="inline", output=tmp_path / "library")
    two = built["merges"][0]
    assert [len(two["adapters"]), two["counts"]["not_chosen"]] == [2, 1]
    assert sum(m["name"].startswith("grouped") for m in built["merges"]) >= 1


def test_a_comparison_starts_at_a_merge_by_its_id(place: Path) -> None:
    merge_id, _ = ids_of(place)
    where = ("--catalog", place / "catalog", "--json")
    by_id = asked("catalog", "diff", "--since", merge_id, *where)
    assert by_id.exit_code == 0, by_id.output
    by_version = asked("catalog", "diff", "--since", "mine@1", *where)
    assert json.loads(by_id.stdout) == json.loads(by_version.stdout)
    assert isinstance(
        asked("catalog", "diff", "--since", "f" * 12, *where).exception, InvalidOption
    )


def test_digits_of_several_adapters_name_the_candidates() -> None:
    ids = [f"abcdef{i}".ljust(64, "0") for i in (1, 2)]
    found = [
        replace(adapter(f"a{i}"), adapter_id=each, uri=f"/zoo/a{i}") for i, each in enumerate(ids)
    ]
    candidates = (
        r"abcdef1?: 2 adapters have an id that begins so: abcdef100000 \(/zoo/a0\), abcdef2"
    )
    with pytest.raises(InvalidOption, match=f"--weight {candidates}") as caught:
        weights_of(inventory(*found), {"abcdef": 2.0})
    assert caught.value.hint == "Give more digits of the id."
    assert weights_of(inventory(*found), {"abcdef2": 2.0}) == (1.0, 2.0)
    with pytest.raises(InvalidOption, match=f"--exclude {candidates}"):
        without(found, ["abcdef"])
    assert without(found, ["ABCDEF1"]) == found[1:]
    named = [replace(found[0], uri="/zoo/abcdef"), found[1]]
    assert without(named, ["abcdef"]) == found[1:], "a name comes before an id"
    assert weights_of(inventory(*named), {"abcdef": 2.0}) == (2.0, 1.0)
