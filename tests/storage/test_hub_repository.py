"""Repositories made and changed, through a server that speaks the endpoints huggingface_hub uses."""

from __future__ import annotations

import hashlib
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from lego_ray.errors import (
    AccessDenied,
    AlreadyExists,
    InvalidOption,
    StorageError,
    StoreUnavailable,
)
from lego_ray.storage.hub_client import same_content
from lego_ray.storage.hub_repository import HubRepository, RepositoryState
from lego_ray.storage.open import open_store
from lego_ray.storage.places import HubPlace
from lego_ray.storage.uri import parse_uri
from tests.storage.fake_hub import FakeHub, used_hub

TOKEN = "hf_plantedTokenOfNoOne"
WEIGHTS = os.urandom(300_000)
FILES = {"a.json": b"{}", "w.safetensors": WEIGHTS, "empty.safetensors": b""}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with used_hub(monkeypatch, token=TOKEN) as hub:
        yield hub


def repository(uri: str = "hf://acme/qa") -> HubRepository:
    parsed = parse_uri(uri)
    assert isinstance(parsed, HubPlace)
    return HubRepository(parsed)


def state_of(uri: str) -> RepositoryState:
    state = repository(uri).state()
    assert state is not None
    return state


def made(hub: FakeHub, uri: str = "hf://acme/qa") -> str:
    """Makes the repository, and returns its first commit."""
    assert repository(uri).create(private=True)
    return hub.repos["acme/qa"].refs["main"]


def test_a_repository_is_made_private_or_public_as_said(hub: FakeHub) -> None:
    assert repository().state() is None
    assert repository().create(private=True)
    assert repository("hf://acme/open").create(private=False)
    assert [hub.repos[name].private for name in ("acme/qa", "acme/open")] == [True, False]
    assert state_of("hf://acme/qa").private
    assert not state_of("hf://acme/open").private
    assert not repository().create(private=False)
    assert hub.repos["acme/qa"].private


def test_files_arrive_in_one_commit_and_are_read_back(hub: FakeHub) -> None:
    first = made(hub)
    commit = repository().commit(FILES, parent=first, summary="All", description="of it")
    repo = hub.repos["acme/qa"]
    assert repo.refs["main"] == commit
    assert len(repo.commits) == 2
    assert repo.messages == [("All", "of it")]
    assert {k: v for k, v in repo.files().items() if k != ".gitattributes"} == FILES
    assert hub.uploads == [hashlib.sha256(WEIGHTS).hexdigest()]
    store = open_store(f"hf://acme/qa@{commit}")
    assert {info.key: store.read(info.key) for info in store.list()} == repo.files()
    state = state_of("hf://acme/qa")
    assert state.head == commit
    assert all(same_content(state.files[key], data) for key, data in FILES.items())
    assert not same_content(state.files["w.safetensors"], WEIGHTS[:-1] + b"x")
    assert not same_content(state.files["a.json"], b"[]")


def test_files_are_replaced_and_deleted_in_one_commit(hub: FakeHub) -> None:
    first = repository().commit(FILES, parent=made(hub), summary="First")
    second = repository().commit(
        {"a.json": b"[]", "b.json": b"1"}, ["w.safetensors"], parent=first, summary="Second"
    )
    kept = {"a.json": b"[]", "b.json": b"1", "empty.safetensors": b""}
    assert {k: v for k, v in hub.repos["acme/qa"].files().items() if k[0] != "."} == kept
    assert len(hub.repos["acme/qa"].commits) == 3
    assert state_of("hf://acme/qa").head == second


def test_a_folder_is_a_root_of_its_own(hub: FakeHub) -> None:
    at = "hf://acme/qa/some/folder"
    commit = repository(at).commit({"a": b"1"}, parent=made(hub), summary="In")
    assert hub.repos["acme/qa"].files()["some/folder/a"] == b"1"
    assert list(state_of(at).files) == ["a"]
    assert state_of("hf://acme/qa/other").files == {}
    repository(at).commit({}, ["a"], parent=commit, summary="Out")
    assert list(hub.repos["acme/qa"].files()) == [".gitattributes"]


def test_a_branch_is_made_where_it_is_asked_to_start(hub: FakeHub) -> None:
    first = made(hub)
    branch = repository("hf://acme/qa@next%2Fone")
    state = state_of(branch.uri)
    assert (state.head, state.has_branch, state.of_its_own) == (first, False, False)
    branch.create_branch(first)
    branch.create_branch(first)  # one that is there is no error
    state = state_of(branch.uri)
    assert (state.head, state.has_branch, state.of_its_own) == (first, True, False)
    commit = branch.commit({"a": b"1"}, parent=first, summary="On it")
    state = state_of(branch.uri)
    assert (state.head, state.has_branch, state.of_its_own) == (commit, True, True)
    assert hub.repos["acme/qa"].refs == {"main": first, "next/one": commit}


@pytest.mark.parametrize("revision", ["0" * 40, "refs/pr/1"])
def test_only_branches_are_written_to(revision: str, hub: FakeHub) -> None:
    with pytest.raises(InvalidOption, match="not a branch"):
        repository(f"hf://acme/qa@{revision}").check()
    assert hub.requests == []


def test_a_tag_is_no_branch(hub: FakeHub) -> None:
    hub.repos["org/zoo"].tags["v1"] = hub.commit({})
    with pytest.raises(InvalidOption, match="v1 is a tag"):
        repository("hf://org/zoo@v1").state()


def test_a_commit_on_another_than_the_last_is_refused(hub: FakeHub) -> None:
    first = made(hub)
    repository().commit({"a": b"1"}, parent=first, summary="One")
    with pytest.raises(AlreadyExists, match="A commit has happened since"):
        repository().commit({"a": b"2"}, parent=first, summary="Two")
    assert hub.repos["acme/qa"].files()["a"] == b"1"


@pytest.mark.parametrize("key", ["../a", "/a", "a//b", ".", ""])
def test_keys_stay_in_the_repository(key: str, hub: FakeHub) -> None:
    with pytest.raises(StorageError, match="the key"):
        repository().commit({key: b""}, parent=made(hub), summary="No")


@pytest.mark.parametrize("status", [429, 503, 500])
def test_a_busy_hub_is_tried_again_at_every_step(status: int, hub: FakeHub) -> None:
    # The repository; the card's check; then that, upload modes, LFS batch, upload, its check; commit.
    hub.write_statuses = [status, 0, status, 0, 0, 0, 0, 0, status]
    first = made(hub)
    repository().commit({"README.md": b"# A", **FILES}, parent=first, summary="All")
    assert hub.write_statuses == []
    assert len(hub.repos["acme/qa"].commits) == 2
    assert hub.repos["acme/qa"].files()["w.safetensors"] == WEIGHTS
    hub.statuses = [status]
    assert state_of("hf://acme/qa").private


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry_After": "40"}, 41),
        ({"RateLimit": '"api";r=0;t=55'}, 56),
        ({"RateLimit": '"api";r=7;t=55'}, 1),
        ({"Retry_After": "9999"}, 300),
        ({}, 1),
    ],
)
def test_it_waits_as_long_as_the_hub_asks(
    headers: dict[str, str], seconds: float, hub: FakeHub
) -> None:
    hub.write_statuses, hub.answer_headers = [429], headers
    assert repository().create(private=True)
    assert hub.waits == [seconds]


def test_a_hub_that_stays_busy_is_given_up(hub: FakeHub) -> None:
    hub.write_statuses = [429] * 50
    with pytest.raises(StoreUnavailable, match="too many requests") as caught:
        repository().create(private=True)
    assert "Wait for some minutes" in caught.value.hint
    assert len(hub.write_statuses) == 45
    assert hub.waits == [1, 2, 4, 8]
    hub.write_statuses = [503] * 50
    with pytest.raises(StoreUnavailable, match="503 at every try"):
        repository().create(private=True)


def test_an_answer_that_is_lost_makes_no_second_commit(hub: FakeHub) -> None:
    first = made(hub)
    hub.lose_answers = 1
    commit = repository().commit(FILES, parent=first, summary="All")
    assert hub.repos["acme/qa"].refs["main"] == commit
    assert len(hub.repos["acme/qa"].commits) == 2


def test_an_upload_that_is_refused_says_so(hub: FakeHub) -> None:
    first = made(hub)
    hub.write_statuses = [0, 0, 403]  # upload modes, LFS batch, the upload itself
    with pytest.raises(AccessDenied, match="403"):
        repository().commit({"w.safetensors": WEIGHTS}, parent=first, summary="No")
    assert len(hub.repos["acme/qa"].commits) == 1


def test_a_card_the_hub_does_not_take_is_an_error_with_its_words(hub: FakeHub) -> None:
    card = b"---\nlicense: beerware\n---\n"
    with pytest.raises(StorageError, match='"license" must be one of'):
        repository().commit({"README.md": card}, parent=made(hub), summary="No")
    assert len(hub.repos["acme/qa"].commits) == 1


def test_without_a_token_nothing_is_asked(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    repository().check_token()
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(AccessDenied, match="no Hub token") as caught:
        repository().check_token()
    assert "hf auth login" in caught.value.hint
    assert hub.requests == []


def test_a_saved_token_is_found(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / "token").write_text(TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    repository().check_token()
    assert repository().create(private=True)


def test_a_wrong_token_is_denied(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    for use in (repository().state, lambda: repository().create(private=True)):
        with pytest.raises(AccessDenied, match="401"):
            use()


def test_a_token_that_only_reads_is_denied(hub: FakeHub) -> None:
    first = made(hub)
    hub.read_only = True
    uses = (
        lambda: repository("hf://acme/new").create(private=True),
        lambda: repository("hf://acme/qa@dev").create_branch(first),
        lambda: repository().commit({"a": b"1"}, parent=first, summary="No"),
    )
    for use in uses:
        with pytest.raises(AccessDenied, match="You don't have the rights") as caught:
            use()
        assert "may write there" in caught.value.hint


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 418, 429, 500])
def test_no_error_and_no_log_holds_the_token(
    status: int, hub: FakeHub, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first = made(hub)
    hub.echo = True
    for use in (
        lambda: repository("hf://acme/new").create(private=True),
        lambda: repository("hf://acme/new@dev").create_branch(first),
        lambda: repository().commit({"a": b"1"}, parent=first, summary="No"),
        lambda: list(open_store("hf://acme/qa").list()),
    ):
        hub.statuses, hub.write_statuses = [status] * 9, [status] * 9
        try:
            told = f"{use()}"
        except StorageError as error:
            told = f"{error} {error!r}"
        assert TOKEN not in told
    assert TOKEN not in caplog.text


def test_offline_by_setting_is_said(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(StoreUnavailable, match="HF_HUB_OFFLINE"):
        repository().state()
    assert hub.requests == []


def test_a_hub_nobody_answers_for_is_unavailable(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    for use in (repository().state, lambda: repository().create(private=True)):
        with pytest.raises(StoreUnavailable, match="HF_ENDPOINT"):
            use()


def test_large_files_go_by_xet_where_it_is_installed(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """hf_xet itself, writing to a directory where its server would be."""
    hf_xet = pytest.importorskip("hf_xet")  # huggingface_hub brings it on common machines only
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    hub.cas = tmp_path / "cas"
    commit = repository().commit({"a": b"1", **FILES}, parent=made(hub), summary="All")
    assert hub.uploads == []
    assert "GET /api/models/acme/qa/xet-write-token/main" in hub.requests
    at_head = hub.repos["acme/qa"].commits[commit]
    assert at_head["w.safetensors"].decode() == f"in xet: {hashlib.sha256(WEIGHTS).hexdigest()}"
    (tmp_path / "w").write_bytes(WEIGHTS)
    [known] = hf_xet.hash_files([str(tmp_path / "w")])
    group = hf_xet.XetSession().new_file_download_group(
        token_refresh_url=f"{hub.endpoint_url}/api/models/acme/qa/xet-write-token/main",
        token_refresh_headers={"authorization": f"Bearer {TOKEN}"},
    )
    with group:
        group.start_download_file(
            hf_xet.XetFileInfo(known.hash, len(WEIGHTS)), str(tmp_path / "back")
        )
    assert (tmp_path / "back").read_bytes() == WEIGHTS
