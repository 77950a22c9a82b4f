"""Lists of sources and collections stand for what they name, wherever a source is given."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

import lego_ray
from lego_ray.cli.main import cli
from lego_ray.errors import InvalidOption, NoAdaptersFound, ObjectNotFound, UnsupportedUri
from lego_ray.sources.expand import expanded
from tests.storage.fake_hub import FakeHub, FakeRepo, used_hub
from tests.zoo import weights_of, write_adapter, write_zoo

COLLECTION = "hf://collections/org/zoo-65f0"


def names(record: lego_ray.ScanRecord) -> list[str]:
    return sorted(Path(a["uri"]).name for a in record["adapters"])


def listed(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return f"@{path}"


def test_a_list_stands_for_its_lines_whose_paths_count_from_its_folder(tmp_path: Path) -> None:
    write_zoo(tmp_path / "zoo", 2)
    write_adapter(tmp_path / "far" / "b", seed=7)
    text = f"\ufeff# the zoo\n\nzoo  # all of it\r\n  deep/../zoo/a0 \n{tmp_path}/far\n"
    given = listed(tmp_path / "list.txt", text)
    assert expanded([given]).places == tuple(f"{tmp_path}/{p}" for p in ("zoo", "zoo/a0", "far"))
    assert names(lego_ray.scan(given)) == ["a0", "a1", "b"]
    assert names(lego_ray.scan([Path(given), tmp_path / "far"])) == ["a0", "a1", "b"]


def test_a_list_may_name_lists_but_not_itself(tmp_path: Path) -> None:
    write_zoo(tmp_path / "zoo", 2)
    listed(tmp_path / "deep" / "more.txt", "../zoo/a1\n")
    both = listed(tmp_path / "all.txt", "zoo/a0\n@deep/more.txt\n")
    assert expanded([both]).places == (f"{tmp_path}/zoo/a0", f"{tmp_path}/zoo/a1")
    listed(tmp_path / "deep" / "more.txt", "@../all.txt\n")
    with pytest.raises(InvalidOption, match=r"all\.txt: the list of sources names itself"):
        expanded([both])


def test_a_path_with_a_hash_in_it_is_not_cut_short(tmp_path: Path) -> None:
    write_adapter(tmp_path / "zoo", seed=1)
    write_adapter(tmp_path / "zoo #2", seed=2)
    assert names(lego_ray.scan(listed(tmp_path / "l", "zoo #2\n"))) == ["zoo #2"]


def test_a_directory_whose_name_begins_with_at_is_what_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_adapter(tmp_path / "@acme" / "a")
    monkeypatch.chdir(tmp_path)
    for source in ("@acme", "./@acme", tmp_path / "@acme"):
        assert names(lego_ray.scan(source)) == ["a"]


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        (None, ObjectNotFound, "no such list of sources"),
        ("# nothing\n\n", InvalidOption, "names none"),
        (b"\xff\xfe", InvalidOption, "is not UTF-8"),
    ],
)
def test_what_is_not_a_list_is_said(
    tmp_path: Path, text: str | bytes | None, error: type[Exception], said: str
) -> None:
    if text is not None:
        (tmp_path / "l").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(error, match=said):
        lego_ray.scan(f"@{tmp_path}/l")
    with pytest.raises(InvalidOption, match="before the name of a list"):
        lego_ray.scan("@")


def test_a_line_that_leads_nowhere_is_named_as_a_source_is(tmp_path: Path) -> None:
    with pytest.raises(ObjectNotFound, match=f"{tmp_path}/gone"):
        lego_ray.scan(listed(tmp_path / "l", "gone\n"))


def test_lists_go_on_the_command_line_and_into_recipe_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_zoo(tmp_path / "zoo", 3)
    given = listed(tmp_path / "lists" / "two.txt", "../zoo/a0\n../zoo/a2\n")
    done = CliRunner().invoke(cli, ["scan", given])
    assert done.exit_code == 0
    assert "2 usable, 0 refused" in done.output
    direct = lego_ray.merge(
        [tmp_path / "zoo" / "a0", tmp_path / "zoo" / "a2"],
        rank=4,
        output=tmp_path / "direct",
        runner="inline",
    )
    recipe = {"sources": ["@lists/two.txt"], "merges": [{"name": "m", "rank": 4}]}
    (tmp_path / "library.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.chdir(tmp_path)
    [built] = lego_ray.build("library.yaml", output="out", runner="inline").merges
    assert weights_of(tmp_path / "out" / "m") == weights_of(tmp_path / "direct")
    assert sorted(built.adapters) == sorted(direct.adapters)
    assert lego_ray.verify("out/m", sources=given).errors is not None
    places = {"output": tmp_path / "zoo" / "out", "catalog": tmp_path / "catalog"}
    listed(tmp_path / "lists" / "two.txt", "../zoo\n")
    with pytest.raises(InvalidOption, match="lies in the source"):
        lego_ray.refresh("library.yaml", runner="inline", **places)  # type: ignore[arg-type]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with used_hub(monkeypatch) as hub:
        yield hub


def files(zoo: Path, below: str = "") -> dict[str, bytes]:
    return {f"{below}{p.relative_to(zoo)}": p.read_bytes() for p in zoo.rglob("*") if p.is_file()}


def test_a_collection_is_its_models_each_at_its_commit(hub: FakeHub, tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 4)
    commits = {"org/zoo": hub.commit(files(zoo / "a0"))}
    hub.repos["you/two"] = FakeRepo()  # with two adapters, each in a folder
    two = {**files(zoo / "a1", "en/qa/"), **files(zoo / "a2", "fr/")}
    commits["you/two"] = hub.repos["you/two"].commit(two)
    hub.collections["org/zoo-65f0"] = [
        ("model", "org/zoo"),
        ("dataset", "org/data"),
        ("paper", "2307.09288"),
        ("model", "you/two"),
        ("dataset", "org/more"),
    ]
    record = lego_ray.scan(COLLECTION)
    at = {f"hf://org/zoo@{commits['org/zoo']}"} | {
        f"hf://you/two@{commits['you/two']}/{folder}" for folder in ("en/qa", "fr")
    }
    assert {a["uri"] for a in record.adapters} == at
    assert {a["revision"] for a in record.adapters} == set(commits.values())
    [warning] = record.warnings
    assert warning == (
        f"{COLLECTION}: 3 of its 5 entries are not models and were passed over: 2 datasets (org/data, "
        "org/more), 1 paper (2307.09288)"
    )
    plan = lego_ray.plan(COLLECTION, rank=4)
    assert plan.digest == lego_ray.plan([*sorted(at)], rank=4).digest
    assert warning in plan.warnings
    assert names(lego_ray.scan(COLLECTION, exclude=["you/*"])) == [f"zoo@{commits['org/zoo']}"]
    assert names(lego_ray.scan("hf://you/two@main/en")) == ["qa"]


def test_a_collection_merges_as_its_copy_on_disk_does(hub: FakeHub, tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 2)
    hub.commit(files(zoo))
    hub.collections["org/zoo-65f0"] = [("model", "org/zoo")]
    for source, output in ((zoo, "here"), (COLLECTION, "there")):
        lego_ray.merge(source, rank=4, output=tmp_path / output, name="m", runner="inline")
    assert weights_of(tmp_path / "here") == weights_of(tmp_path / "there")


def test_a_repository_of_a_collection_that_cannot_be_read_is_named(hub: FakeHub) -> None:
    hub.collections["org/zoo-65f0"] = [("model", "org/gone"), ("model", "org/zoo")]
    with pytest.raises(ObjectNotFound, match="hf://org/gone"):
        lego_ray.scan(COLLECTION)
    hub.commit({"README.md": b"# Zoo"})
    assert lego_ray.scan(COLLECTION, exclude=["org/gone"]).adapters == ()


def test_collections_that_are_not_there_or_hold_no_models(hub: FakeHub) -> None:
    with pytest.raises(ObjectNotFound, match="no such collection, or it is private"):
        lego_ray.scan(COLLECTION)
    hub.collections["org/zoo-65f0"] = [("space", "org/demo")]
    with pytest.raises(NoAdaptersFound, match=r"no models, only 1 space \(org/demo\)"):
        lego_ray.scan(COLLECTION)
    for text in ("hf://collections", "hf://collections/org", f"{COLLECTION}@main/a/b"):
        with pytest.raises(UnsupportedUri, match="hf://collections/owner/slug"):
            lego_ray.scan(text)


def test_a_list_on_the_hub_is_read_at_its_commit(hub: FakeHub, tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 2)
    commit = hub.commit({**files(zoo), "lists/one.txt": b"../a1\n", "here.txt": b"a1\n"})
    with pytest.raises(InvalidOption, match="leads out of the folder"):
        lego_ray.scan("@hf://org/zoo/lists/one.txt")
    [adapter] = lego_ray.scan("@hf://org/zoo/here.txt").adapters
    assert adapter["uri"] == f"hf://org/zoo@{commit}/a1"
