"""Publishing to the Hub, through a server that speaks the endpoints huggingface_hub uses."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import lego_ray
from lego_ray.cli.main import cli
from lego_ray.errors import (
    AccessDenied,
    InvalidOption,
    LegoRayError,
    OutputExists,
    ReadOnlyStore,
    StorageError,
    StoreUnavailable,
    VerificationFailed,
)
from tests.storage.fake_hub import FakeHub, FakeRepo, used_hub
from tests.zoo import CONFIG, WEIGHTS, write_adapter, write_zoo

TOKEN = "hf_plantedTokenOfNoOne"
MANIFEST = "lego_ray_manifest.json"
TO = "hf://acme/qa"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with used_hub(monkeypatch, token=TOKEN) as hub:
        yield hub


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo; `first` and `second`, two versions of the merge `qa` of it; and `other`, another."""
    here = tmp_path_factory.mktemp("publish")
    zoo = write_zoo(here / "zoo", 3)
    for folder, name, seed in (("first", "qa", 0), ("second", "qa", 1), ("other", "sum", 2)):
        output, more = here / folder, {"n_init": 1, "seed": seed}
        lego_ray.merge(zoo, rank=4, output=output, name=name, runner="inline", **more)
    return here


def publish(merged: Path, to: str = TO, **options: Any) -> dict[str, Any]:
    return lego_ray.publish(merged, to=to, **options)


def on_disk(merged: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in merged.iterdir() if file.is_file()}


def on_hub(repo: FakeRepo, ref: str = "main") -> dict[str, bytes]:
    return {key: data for key, data in repo.files(ref).items() if key != ".gitattributes"}


def test_a_merge_is_one_commit_of_its_bytes_in_a_private_repository(
    hub: FakeHub, place: Path
) -> None:
    record = publish(place / "first")
    repo = hub.repos["acme/qa"]
    assert repo.private
    assert [asked.get("visibility") for asked in hub.created] == ["private"]
    assert len(repo.commits) == 2
    assert on_hub(repo) == on_disk(place / "first")
    assert hub.uploads == [hashlib.sha256((place / "first" / WEIGHTS).read_bytes()).hexdigest()]
    manifest = json.loads((place / "first" / MANIFEST).read_text())
    assert repo.messages[0][0] == "Publish qa: 3 adapters by lego at rank 4"
    assert f"merge {manifest['merge_id']}" in repo.messages[0][1]
    assert {k: v for k, v in record.items() if k not in ("files", "model_card")} == {
        "merged": str(place / "first"),
        "merge_id": manifest["merge_id"],
        "name": "qa",
        "to": TO,
        "status": "published",
        "dry_run": False,
        "bytes": sum(len(data) for data in on_disk(place / "first").values()),
        "deleted": [],
        "warnings": [],
        "url": f"{hub.endpoint_url}/acme/qa",
        "private": True,
        "creates": True,
        "branch": "main",
        "replaces": None,
        "commit": repo.refs["main"],
        "commit_message": "\n\n".join(repo.messages[0]),
    }
    assert [f["path"] for f in record["files"]] == ["README.md", WEIGHTS, MANIFEST, CONFIG]
    assert {f["action"] for f in record["files"]} == {"add"}


def test_what_is_published_is_verified_planned_and_merged_from_there(
    hub: FakeHub, place: Path, tmp_path: Path
) -> None:
    commit = publish(place / "first")["commit"]
    assert lego_ray.verify(TO, sources=place / "zoo") == {
        **lego_ray.verify(place / "first", sources=place / "zoo"),
        "merged": TO,
    }
    assert lego_ray.status(TO)["state"] == "published"
    at = f"{TO}@{commit}"
    [here] = lego_ray.plan(place / "first", rank=4).adapters
    [there] = lego_ray.plan(at, rank=4).adapters
    assert (there.uri, there.revision) == (at, commit)
    assert there.adapter_id == here.adapter_id
    record = lego_ray.merge(at, rank=4, output=tmp_path / "again", runner="inline", n_init=1)
    assert record["adapters"] == [at]
    manifest = json.loads((tmp_path / "again" / MANIFEST).read_text())
    assert manifest["sources"][0]["adapter_id"] == here.adapter_id
    assert f"/acme/qa/tree/{commit})" in (tmp_path / "again" / "README.md").read_text()
    assert publish(Path(tmp_path / "again"), "hf://acme/again")["status"] == "published"


def test_a_published_merge_goes_on_to_another_place(
    hub: FakeHub, place: Path, tmp_path: Path
) -> None:
    publish(place / "first")
    assert lego_ray.publish(TO, to=tmp_path / "copy")["status"] == "published"
    assert on_disk(tmp_path / "copy") == on_disk(place / "first")
    assert lego_ray.publish(TO, to="hf://acme/mirror")["status"] == "published"
    assert on_hub(hub.repos["acme/mirror"]) == on_disk(place / "first")


def test_the_same_again_writes_nothing_and_says_so(hub: FakeHub, place: Path) -> None:
    first = publish(place / "first")
    written = hub.written()
    for options in ({}, {"update": True}, {"dry_run": True}):
        again = publish(place / "first", **options)
        assert (again["status"], again["commit"]) == ("already published", first["commit"])
        assert (again["bytes"], again["commit_message"]) == (0, None)
        assert {f["action"] for f in again["files"]} == {"same"}
    assert hub.written() == written


@pytest.mark.parametrize("public", [False, True])
def test_a_dry_run_sends_nothing_that_writes_and_says_all(
    public: bool, hub: FakeHub, place: Path
) -> None:
    dry = publish(place / "first", dry_run=True, public=public)
    assert hub.written() == []
    assert list(hub.repos) == ["org/zoo"]
    assert (dry["status"], dry["private"], dry["creates"]) == ("would publish", not public, True)
    assert dry["model_card"] == (place / "first" / "README.md").read_text()
    real = publish(place / "first", public=public)
    same = dry.keys() - {"status", "dry_run", "commit"}
    assert {k: dry[k] for k in same} == {k: real[k] for k in same}
    assert hub.repos["acme/qa"].private is not public


def test_a_dry_run_of_an_update_sends_nothing_that_writes(hub: FakeHub, place: Path) -> None:
    publish(place / "first")
    written = hub.written()
    dry = publish(place / "second", update=True, dry_run=True)
    assert publish(place / "second", revision="next", dry_run=True)["branch"] == "next"
    assert hub.written() == written
    real = publish(place / "second", update=True)
    same = dry.keys() - {"status", "dry_run", "commit"}
    assert {k: dry[k] for k in same} == {k: real[k] for k in same}


def test_a_dry_run_needs_no_token_and_says_that_the_rest_does(
    hub: FakeHub, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert publish(place / "first", dry_run=True)["warnings"] == [
        "there is no Hub token, and publishing needs one"
    ]
    with pytest.raises(AccessDenied, match="no Hub token"):
        publish(place / "first")
    assert hub.written() == []


def test_an_update_is_the_next_commit_where_it_is_asked_for(hub: FakeHub, place: Path) -> None:
    first = publish(place / "first")
    with pytest.raises(OutputExists, match="another merge, 'qa'") as caught:
        publish(place / "second")
    assert "--update" in caught.value.hint
    repo = hub.repos["acme/qa"]
    assert on_hub(repo) == on_disk(place / "first")
    second = publish(place / "second", update=True)
    assert (second["status"], second["replaces"]) == ("published", first["merge_id"])
    assert second["creates"] is False
    assert second["warnings"] == []
    assert len(repo.commits) == 3
    assert repo.messages[1][0].startswith("Update qa: ")
    assert first["merge_id"] in repo.messages[1][1]
    assert on_hub(repo) == on_disk(place / "second")
    assert repo.commits[first["commit"]].keys() == repo.files().keys()
    assert lego_ray.verify(f"{TO}@{first['commit']}")["merge_id"] == first["merge_id"]


@pytest.mark.parametrize("update", [False, True])
def test_a_merge_of_another_name_is_never_replaced(update: bool, hub: FakeHub, place: Path) -> None:
    publish(place / "first")
    before = on_hub(hub.repos["acme/qa"])
    with pytest.raises(OutputExists, match="'sum'") as caught:
        publish(place / "other", update=update)
    assert "same name only" in caught.value.hint
    assert on_hub(hub.repos["acme/qa"]) == before


def test_a_branch_of_its_own_holds_any_merge(hub: FakeHub, place: Path) -> None:
    publish(place / "first")
    repo = hub.repos["acme/qa"]
    record = publish(place / "other", revision="sum/all")
    assert (record["to"], record["branch"]) == ("hf://acme/qa@sum%2Fall", "sum/all")
    assert on_hub(repo, "sum/all") == on_disk(place / "other")
    assert on_hub(repo) == on_disk(place / "first")
    assert publish(place / "other", "hf://acme/qa@sum%2Fall")["status"] == "already published"
    with pytest.raises(OutputExists):
        publish(place / "first", revision="sum/all", update=True)
    assert lego_ray.verify(record["to"])["merge_id"] == record["merge_id"]


def test_a_branch_left_without_its_commit_is_taken_up(hub: FakeHub, place: Path) -> None:
    publish(place / "first")
    repo = hub.repos["acme/qa"]
    repo.refs["next"] = repo.refs["main"]
    assert publish(place / "other", revision="next")["status"] == "published"
    assert on_hub(repo, "next") == on_disk(place / "other")


def test_a_branch_of_the_same_merge_is_made_without_a_commit(hub: FakeHub, place: Path) -> None:
    first = publish(place / "first")
    record = publish(place / "first", revision="kept")
    assert (record["status"], record["commit"]) == ("published", first["commit"])
    assert hub.repos["acme/qa"].refs == {"main": first["commit"], "kept": first["commit"]}


def test_a_new_repository_may_start_with_a_branch(hub: FakeHub, place: Path) -> None:
    publish(place / "first", revision="dev")
    repo = hub.repos["acme/qa"]
    assert on_hub(repo) == {}
    assert on_hub(repo, "dev") == on_disk(place / "first")


def test_a_library_lies_in_folders_of_one_repository(hub: FakeHub, place: Path) -> None:
    for folder in ("first", "other"):
        publish(place / folder, f"{TO}/{folder}")
    assert on_hub(hub.repos["acme/qa"]) == {
        f"{folder}/{key}": data
        for folder in ("first", "other")
        for key, data in on_disk(place / folder).items()
    }
    assert publish(place / "second", f"{TO}/first", update=True)["status"] == "published"
    assert lego_ray.verify(f"{TO}/first", sources=place / "zoo")["ok"]
    assert {Path(a["uri"]).name for a in lego_ray.scan(TO)["adapters"]} == {"first", "other"}


def test_a_public_repository_is_published_to_only_if_that_is_said(
    hub: FakeHub, place: Path
) -> None:
    publish(place / "first", public=True)
    assert [asked.get("visibility") for asked in hub.created] == ["public"]
    written = hub.written()
    with pytest.raises(InvalidOption, match="the repository is public"):
        publish(place / "second", update=True)
    assert hub.written() == written
    assert publish(place / "second", update=True, public=True)["private"] is False


def test_a_private_repository_stays_private(hub: FakeHub, place: Path) -> None:
    publish(place / "first")
    record = publish(place / "second", update=True, public=True)
    assert record["private"] is True
    assert "stays so" in record["warnings"][0]
    assert hub.repos["acme/qa"].private


def test_a_repository_that_comes_out_public_gets_nothing(hub: FakeHub, place: Path) -> None:
    hub.all_public = True
    with pytest.raises(StorageError, match="nothing was uploaded"):
        publish(place / "first")
    assert on_hub(hub.repos["acme/qa"]) == {}
    assert hub.uploads == []


@pytest.mark.parametrize("update", [False, True])
@pytest.mark.parametrize("key", [CONFIG, WEIGHTS, "adapter_model.bin"])
def test_an_adapter_of_others_is_never_replaced(
    key: str, update: bool, hub: FakeHub, place: Path
) -> None:
    hub.repos["acme/qa"] = FakeRepo(private=True)
    hub.repos["acme/qa"].commit({key: b"theirs"})
    with pytest.raises(OutputExists, match="of no merge by lego-ray"):
        publish(place / "first", update=update)
    assert hub.written() == []


def test_a_repository_made_by_hand_is_filled(hub: FakeHub, place: Path) -> None:
    """Such as on the website, with a card for its licence."""
    repo = hub.repos["acme/qa"] = FakeRepo(private=True)
    repo.commit({".gitattributes": b"", "LICENSE": b"ours", "README.md": b"soon"})
    with pytest.raises(OutputExists, match=r"README\.md is there already"):
        publish(place / "first")
    publish(place / "first", update=True)
    assert on_hub(repo) == {**on_disk(place / "first"), "LICENSE": b"ours"}


def test_a_card_changed_there_is_kept_until_an_update(hub: FakeHub, place: Path) -> None:
    publish(place / "first")
    repo = hub.repos["acme/qa"]
    edited = repo.commit({**repo.files(), "README.md": b"# Ours"})
    again = publish(place / "first")
    assert (again["status"], again["commit"]) == ("already published", edited)
    assert "README.md was changed there" in again["warnings"][0]
    second = publish(place / "second", update=True)
    assert "README.md was changed there" in second["warnings"][0]
    assert on_hub(repo) == on_disk(place / "second")


def test_files_damaged_there_are_put_back_by_an_update(hub: FakeHub, place: Path) -> None:
    publish(place / "first")
    repo = hub.repos["acme/qa"]
    files = {**repo.files(), WEIGHTS: b"damaged"}
    del files[CONFIG]
    repo.commit(files)
    with pytest.raises(OutputExists, match=f"{CONFIG}, {WEIGHTS} was changed or deleted"):
        publish(place / "first")
    publish(place / "first", update=True)
    assert on_hub(repo) == on_disk(place / "first")


def test_files_of_the_version_before_that_this_has_not_are_deleted(
    hub: FakeHub, place: Path
) -> None:
    publish(place / "first")
    repo = hub.repos["acme/qa"]
    manifest = json.loads(repo.files()[MANIFEST])
    manifest["files"]["more.safetensors"] = {"bytes": 4, "sha256": "0" * 64}
    more = {MANIFEST: json.dumps(manifest).encode(), "more.safetensors": b"more", "notes": b"kept"}
    repo.commit({**repo.files(), **more})
    record = publish(place / "second", update=True)
    assert record["deleted"] == ["more.safetensors"]
    assert on_hub(repo) == {**on_disk(place / "second"), "notes": b"kept"}


@pytest.mark.parametrize("text", [b"{", b'{"manifest_version": 99}', b"[]"])
def test_a_manifest_that_cannot_be_read_is_refused(text: bytes, hub: FakeHub, place: Path) -> None:
    hub.repos["acme/qa"] = FakeRepo(private=True)
    hub.repos["acme/qa"].commit({MANIFEST: text})
    with pytest.raises(OutputExists, match=MANIFEST):
        publish(place / "first", update=True)
    assert hub.written() == []


def test_a_merge_changed_since_is_not_published(hub: FakeHub, place: Path, tmp_path: Path) -> None:
    for key in (WEIGHTS, "README.md"):
        copy = tmp_path / key
        lego_ray.publish(place / "first", to=copy)
        (copy / key).write_bytes(b"x" + (copy / key).read_bytes()[1:])
        with pytest.raises(VerificationFailed, match="sha256"):
            publish(copy)
    assert hub.requests == []


def test_another_who_commits_meanwhile_is_not_overwritten(hub: FakeHub, place: Path) -> None:
    publish(place / "first")
    repo = hub.repos["acme/qa"]

    def theirs() -> None:
        hub.before_commit = lambda: None
        repo.commit({**repo.files(), "notes": b"theirs", CONFIG: b"{}"})

    hub.before_commit = theirs
    with pytest.raises(OutputExists, match="meanwhile"):
        publish(place / "second", update=True)
    assert repo.files()["notes"] == b"theirs"


def test_two_who_publish_the_same_at_once_make_one_commit(hub: FakeHub, place: Path) -> None:
    def first() -> None:
        hub.before_commit = lambda: None
        publish(place / "first")

    hub.before_commit = first
    record = publish(place / "first")
    assert len(hub.repos["acme/qa"].commits) == 2
    assert record["commit"] == hub.repos["acme/qa"].refs["main"]


def test_a_repository_another_makes_meanwhile_is_looked_at(hub: FakeHub, place: Path) -> None:
    real = hub.repos
    theirs = FakeRepo(private=True)
    theirs.commit({CONFIG: b"theirs"})

    class Late(dict[str, FakeRepo]):
        def __contains__(self, key: object) -> bool:
            if key == "acme/qa":
                self["acme/qa"] = theirs
            return super().__contains__(key)

    hub.repos = Late(real)
    with pytest.raises(OutputExists, match="of no merge by lego-ray"):
        publish(place / "first")
    assert theirs.files() == {CONFIG: b"theirs"}


def test_a_lost_answer_and_a_busy_hub_end_in_one_commit(hub: FakeHub, place: Path) -> None:
    hub.lose_answers = 1
    hub.write_statuses = [503, 429]
    record = publish(place / "first")
    assert record["status"] == "published"
    assert len(hub.repos["acme/qa"].commits) == 2
    assert record["commit"] == hub.repos["acme/qa"].refs["main"]


def test_a_hub_that_stays_busy_leaves_nothing_half_done(hub: FakeHub, place: Path) -> None:
    hub.write_statuses = [0, 0, 0, 0, 0, 0] + [503] * 60
    with pytest.raises(StoreUnavailable, match="too busy"):
        publish(place / "first")
    assert on_hub(hub.repos["acme/qa"]) == {}
    hub.write_statuses = []
    record = publish(place / "first")
    assert (record["status"], record["creates"]) == ("published", False)
    assert on_hub(hub.repos["acme/qa"]) == on_disk(place / "first")


def test_the_token_is_in_no_record_log_file_or_error(
    hub: FakeHub, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    told = [json.dumps(publish(place / "first")), json.dumps(publish(place / "first"))]
    hub.echo = hub.read_only = True
    for use in (
        lambda: publish(place / "second", update=True),
        lambda: publish(place / "first", "hf://acme/new"),
    ):
        with pytest.raises(LegoRayError) as caught:
            use()
        told += [str(caught.value), repr(caught.value)]
    assert not [text for text in told if TOKEN in text]
    assert TOKEN not in caplog.text
    assert not [k for k, v in hub.repos["acme/qa"].files().items() if TOKEN.encode() in v]
    assert TOKEN not in str(hub.repos["acme/qa"].messages)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"to": f"{TO}@{'0' * 40}"}, "no branch"),
        ({"to": f"{TO}@one", "revision": "two"}, "--revision"),
        ({"revision": "refs/pr/3"}, "no branch"),
    ],
)
def test_options_that_do_not_go_together_are_refused_unasked(
    options: dict[str, Any], says: str, hub: FakeHub, place: Path
) -> None:
    with pytest.raises(InvalidOption, match=says):
        publish(place / "first", **options)
    assert hub.requests == []


def test_a_merge_is_not_written_to_the_hub_itself(hub: FakeHub, place: Path) -> None:
    for verb in (lego_ray.merge, lego_ray.plan):
        with pytest.raises(ReadOnlyStore, match="publish OUTPUT --to hf://acme/qa") as caught:
            verb(place / "zoo", rank=4, output=TO)
        assert caught.value.exit_code == 2
    assert hub.requests == []


def test_a_base_model_that_is_a_path_and_an_odd_licence_are_published(
    hub: FakeHub, tmp_path: Path
) -> None:
    adapter = write_adapter(tmp_path / "zoo" / "a", base_model="/models/llama")
    (adapter / "README.md").write_text("---\nlicense: Our Own\n---\n")
    lego_ray.merge(tmp_path / "zoo", rank=2, output=tmp_path / "m", runner="inline", n_init=1)
    assert publish(tmp_path / "m")["status"] == "published"


def run(*words: object) -> str:
    done = CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_the_command_shows_what_it_would_do_and_what_it_did(hub: FakeHub, place: Path) -> None:
    dry = run("publish", place / "first", "--to", TO, "--dry-run")
    assert hub.written() == []
    for said in (
        "nothing was made and nothing written",
        f"would publish: qa, on branch main of the private repository that is not there yet {TO}",
        "Publish qa: 3 adapters by lego at rank 4",
        (place / "first" / "README.md").read_text(),
        *(name for name in on_disk(place / "first")),
    ):
        assert said in dry
    done = run("publish", place / "first", "--to", TO)
    assert f"published: qa, on branch main of the private new repository {TO}" in done
    assert f"commit {hub.repos['acme/qa'].refs['main']}" in done
    record = json.loads(run("publish", place / "second", "--to", TO, "--update", "--json"))
    assert record["commit"] == hub.repos["acme/qa"].refs["main"]
