"""Publishing to a repository on the Hub that holds something: what is replaced, and what never is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import lego_ray
from lego_ray.errors import (
    OutputExists,
)
from tests.output.hub_merges import MANIFEST, TO, TOKEN, merges, on_disk, on_hub, publish
from tests.storage.fake_hub import FakeHub, FakeRepo, used_hub
from tests.zoo import CONFIG, WEIGHTS


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with used_hub(monkeypatch, token=TOKEN) as hub:
        yield hub


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return merges(tmp_path_factory.mktemp("publish"))


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


@pytest.mark.parametrize("update", [False, True])
@pytest.mark.parametrize("key", [CONFIG, WEIGHTS, "adapter_model.bin", "theirs.safetensors"])
def test_an_adapter_of_others_is_never_replaced(
    key: str, update: bool, hub: FakeHub, place: Path
) -> None:
    hub.repos["acme/qa"] = FakeRepo(private=True)
    hub.repos["acme/qa"].commit({key: b"theirs"})
    with pytest.raises(OutputExists, match="of no merge by lego-ray"):
        publish(place / "first", update=update)
    assert hub.written() == []


def test_a_repository_made_by_hand_is_filled(hub: FakeHub, place: Path) -> None:
    """Such as on the website, with a card for its license."""
    repo = hub.repos["acme/qa"] = FakeRepo(private=True)
    repo.commit({".gitattributes": b"", "LICENSE": b"ours", "README.md": b"soon"})
    with pytest.raises(OutputExists, match=r"README\.md already exists"):
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
