"""Publishing to the Hub, through a server that speaks the endpoints huggingface_hub uses."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
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
    ReadOnlyStore,
    StorageError,
    StoreUnavailable,
    VerificationFailed,
)
from tests.image_zoo import write_kohya
from tests.output.hub_merges import MANIFEST, TO, TOKEN, merges, on_disk, on_hub, publish
from tests.storage.fake_hub import FakeHub, used_hub
from tests.zoo import CONFIG, WEIGHTS, write_adapter


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with used_hub(monkeypatch, token=TOKEN) as hub:
        yield hub


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return merges(tmp_path_factory.mktemp("publish"))


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
    listed = [f["path"] for f in record["files"]]
    last = "adapter_config.json"
    assert listed == sorted(on_disk(place / "first"), key=lambda name: (name == last, name))
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
    asked: list[dict[str, Any]] = [{}, {"update": True}, {"dry_run": True}]
    for options in asked:
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


def test_a_public_repository_is_published_to_only_if_that_is_said(
    hub: FakeHub, place: Path
) -> None:
    record = publish(place / "first", public=True)
    assert [asked.get("visibility") for asked in hub.created] == ["public"]
    [shown] = record["warnings"]
    assert "names of 3 adapters of your own, such as a0" in shown
    assert not [data for data in on_hub(hub.repos["acme/qa"]).values() if bytes(place) in data]
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


def test_a_merge_changed_since_is_not_published(hub: FakeHub, place: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    lego_ray.publish(place / "first", to=copy)
    (copy / WEIGHTS).write_bytes(b"x" + (copy / WEIGHTS).read_bytes()[1:])
    with pytest.raises(VerificationFailed, match="sha256"):
        publish(copy)
    assert hub.requests == []


def test_a_card_that_was_edited_is_published_as_it_is(
    hub: FakeHub, place: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    lego_ray.publish(place / "first", to=copy)
    (copy / "README.md").write_text((copy / "README.md").read_text() + "\nOurs.\n")
    record = publish(copy)
    assert "README.md was edited after the merge was published" in record["warnings"]
    assert record["model_card"].endswith("\nOurs.\n")
    assert on_hub(hub.repos["acme/qa"])["README.md"].endswith(b"\nOurs.\n")
    assert publish(copy)["status"] == "already published"


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
    uses: tuple[Callable[[], object], ...] = (
        lambda: publish(place / "second", update=True),
        lambda: publish(place / "first", "hf://acme/new"),
    )
    for use in uses:
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
        ({"to": f"{TO}@{'0' * 40}"}, "not a branch"),
        ({"to": f"{TO}@one", "revision": "two"}, "--revision"),
        ({"revision": "refs/pr/3"}, "not a branch"),
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


def test_a_base_model_that_is_a_path_and_an_odd_license_are_published(
    hub: FakeHub, tmp_path: Path
) -> None:
    adapter = write_adapter(tmp_path / "zoo" / "a", base_model="/models/llama")
    (adapter / "README.md").write_text("---\nlicense: Our Own\n---\n")
    lego_ray.merge(tmp_path / "zoo", rank=2, output=tmp_path / "m", runner="inline", n_init=1)
    record = publish(tmp_path / "m")
    assert record["status"] == "published"
    [warning] = record["warnings"]
    assert "/models/llama is not a name on the Hub" in warning


def test_a_merge_in_another_layout_takes_the_place_of_its_earlier_version(
    hub: FakeHub, place: Path, tmp_path: Path
) -> None:
    publish(place / "first")
    for seed in (1, 2):
        write_kohya(tmp_path / "zoo" / f"a{seed}.safetensors", seed=seed)
    lego_ray.merge(
        tmp_path / "zoo", rank=2, output=tmp_path / "m", name="qa", runner="inline", n_init=1
    )
    record = publish(tmp_path / "m", update=True)
    assert record["deleted"] == [CONFIG, WEIGHTS]
    assert on_hub(hub.repos["acme/qa"]) == on_disk(tmp_path / "m")
    assert lego_ray.verify(TO, sources=tmp_path / "zoo")["ok"]


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
