"""Tags from a table and from folders: which adapter gets which, and that conditions see them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import lego_ray
from lego_ray.cli.main import cli
from lego_ray.errors import InvalidOption, ObjectNotFound, RecipeError
from lego_ray.planning.tags import parse_folders, parse_tags
from tests.zoo import write_adapter


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Adapters `qa/fr/a`, `qa/en/b` and `c`; the card of the first has a tag."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(["qa/fr/a", "qa/en/b", "c"]):
        write_adapter(tmp_path / "zoo" / name, seed=seed)
    card = "---\ntags: ['task:chat', 'owner:ann']\n---\n"
    (tmp_path / "zoo" / "qa" / "fr" / "a" / "README.md").write_text(card)
    return tmp_path / "zoo"


def tags(**options: Any) -> dict[str, dict[str, str]]:
    found = lego_ray.scan("zoo", **options)["adapters"]
    return {adapter["uri"].rsplit("/", 1)[-1]: adapter["tags"] for adapter in found}


def test_a_table_comes_before_folders_and_these_before_a_card(zoo: Path) -> None:
    assert tags() == {"a": {"task": "chat", "owner": "ann"}, "b": {}, "c": {}}
    by_folder = tags(tags_from_folders="task/language")
    assert by_folder["a"] == {"task": "qa", "language": "fr", "owner": "ann"}
    assert by_folder["b"] == {"task": "qa", "language": "en"}
    assert by_folder["c"] == {}
    assert tags(tags_from_folders="*/language")["b"] == {"language": "en"}
    Path("t.csv").write_text("adapter,language,size\na,de,\n*,,small\n")
    assert tags(tags_from_folders="task/language", tags="t.csv") == {
        "a": {"task": "qa", "language": "de", "owner": "ann", "size": "small"},
        "b": {"task": "qa", "language": "en", "size": "small"},
        "c": {"size": "small"},
    }


def test_a_row_names_its_adapter_as_weights_do_or_by_its_id(zoo: Path) -> None:
    ids = {a["uri"]: a["adapter_id"] for a in lego_ray.scan("zoo")["adapters"]}
    rows = [
        ("./qa/fr/a/", "path"),
        (str(zoo / "qa" / "en" / "b"), "uri"),
        (ids[str(zoo / "c")][:12], "id"),
    ]
    Path("t.csv").write_text("uri,by\n" + "".join(f"{name},{by}\n" for name, by in rows))
    record = lego_ray.scan("zoo", tags="t.csv")
    assert {a["tags"]["by"] for a in record["adapters"]} == {"path", "uri", "id"}
    assert record["warnings"] == []


def test_an_adapter_that_is_refused_keeps_its_base_and_its_tags(zoo: Path) -> None:
    config = zoo / "qa" / "fr" / "a" / "adapter_config.json"
    fields = {**json.loads(config.read_text()), "peft_type": "OFT"}
    config.write_text(json.dumps({**fields, "base_model_name_or_path": "acme/base"}))
    Path("t.csv").write_text("adapter,owner\na,bob\n")
    lego_ray.scan("zoo", catalog="catalog", tags="t.csv", tags_from_folders="task/language")
    # A scan that gives no tags leaves those that others gave, as of adapters that are taken.
    lego_ray.merge("zoo", rank=2, output="m", catalog="catalog", runner="inline")
    [row] = lego_ray.catalog.sql(
        "catalog", "SELECT * FROM adapters WHERE status = 'refused'"
    ).to_pylist()
    assert row["base_model"] == "acme/base"
    assert dict(row["tags"]) == {"task": "chat", "language": "fr", "owner": "ann"}
    assert row["n_bytes"] > 0


def test_rows_of_no_adapter_are_said_once(zoo: Path) -> None:
    names = [f"gone-{i}" for i in range(5)]
    Path("t.csv").write_text("name,x\n" + "".join(f"{name},1\n" for name in ["a", *names]))
    [warning] = lego_ray.scan("zoo", tags="t.csv")["warnings"]
    assert warning == f"{Path('t.csv').absolute()} has tags of no adapter here: " + (
        "gone-0, gone-1, gone-2 and 2 more"
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("task,language\nqa,fr\n", "its columns are task, language"),
        ("", "its columns are none"),
        ("adapter,x,x\na,1,2\n", "Name each once"),
        ("adapter,x\na,1,2\n", "line 2 has more cells than the head"),
        ("adapter,x\na,1\na,2\n", "a has x 1 and 2"),
        ('adapter,x\na,"1\n', "it is not CSV"),
    ],
)
def test_a_wrong_table_is_refused(text: str, says: str) -> None:
    with pytest.raises(InvalidOption, match=says):
        parse_tags(text, "t.csv")


def test_wrong_places_and_patterns_are_refused(zoo: Path) -> None:
    for pattern in ("", "a b", "task/task", "*", "*/*", "task//language"):
        with pytest.raises(InvalidOption, match="--tags-from-folders"):
            parse_folders(pattern)
    with pytest.raises(ObjectNotFound):
        lego_ray.scan("zoo", tags="nowhere.csv")
    Path("t.csv").write_bytes(b"adapter,x\na,\xff\n")
    with pytest.raises(InvalidOption, match="is not UTF-8"):
        lego_ray.scan("zoo", tags="t.csv")


def recorded() -> dict[str, dict[str, str]]:
    rows = lego_ray.catalog.sql("cat", "SELECT uri, tags FROM adapters").to_pylist()
    return {row["uri"].rsplit("/", 1)[-1]: dict(row["tags"]) for row in rows}


def test_a_merge_keeps_the_tags_that_a_scan_recorded_and_a_scan_sets_them(zoo: Path) -> None:
    Path("t.csv").write_text("adapter,size\na,small\n")
    assert tags(tags="t.csv", catalog="cat")["a"] == recorded()["a"]
    lego_ray.merge("zoo", rank=2, output="m", catalog="cat", runner="inline", n_init=1)
    assert recorded()["a"] == {"task": "chat", "owner": "ann", "size": "small"}
    assert lego_ray.scan("zoo", catalog="cat")["new"] == 1
    assert recorded()["a"] == {"task": "chat", "owner": "ann"}


@pytest.mark.parametrize("verb", ["build", "refresh"])
def test_conditions_of_a_recipe_see_them_and_a_changed_table_is_noticed(
    zoo: Path, verb: str
) -> None:
    Path("t.csv").write_text("adapter,size\na,small\nb,large\n")
    Path("r.yaml").write_text(
        "sources: [zoo]\ntags: t.csv\ntags_from_folders: task/language\n"
        "catalog: cat\noutput: lib\ndefaults: {rank: 2, options: {n_init: 1}}\n"
        "merges:\n  - {name: one, where: tags.task = 'qa' and tags.size = 'small'}\n"
    )
    call = getattr(lego_ray, verb)

    def merged() -> list[str]:
        record = call("r.yaml", runner="inline")
        return [uri.rsplit("/", 1)[-1] for uri in record["merges"][0]["adapters"]]

    assert merged() == ["a"]
    if verb == "refresh":
        assert recorded()["b"] == {"task": "qa", "language": "en", "size": "large"}
        assert call("r.yaml", runner="inline")["status"] == "unchanged"
        Path("t.csv").write_text("adapter,size\na,large\nb,small\n")
        assert merged() == ["b"]


def test_a_wrong_pattern_in_a_recipe_is_one_of_its_faults(zoo: Path) -> None:
    Path("r.yaml").write_text(
        "sources: [zoo]\ntags_from_folders: 'a b'\noutput: lib\nmerges: [{name: x, rank: 2}]\n"
    )
    with pytest.raises(RecipeError, match="tags_from_folders: 'a b' is not a pattern"):
        lego_ray.build("r.yaml", runner="inline")


def test_the_command_takes_both(zoo: Path) -> None:
    Path("t.csv").write_text("adapter,size\nc,small\n")
    words = ["scan", "zoo", "--tags", "t.csv", "--tags-from-folders", "task/language", "--json"]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    found = {a["uri"].rsplit("/", 1)[-1]: a["tags"] for a in json.loads(done.stdout)["adapters"]}
    assert (found["c"], found["b"]["task"]) == ({"size": "small"}, "qa")
