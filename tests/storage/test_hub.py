from __future__ import annotations

import hashlib
import os
import pickle
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest

from lego_ray.errors import (
    AccessDenied,
    ObjectNotFound,
    ReadOnlyStore,
    StorageError,
    StoreUnavailable,
)
from lego_ray.storage import (
    ByteRange,
    HubStore,
    ObjectInfo,
    Store,
    open_store,
    probe_create_only,
)
from tests.storage.fake_hub import FakeHub, fake_hub

BIG = os.urandom(3 << 20)
FILES = {
    "README.md": b"# Zoo",
    "alice/adapter_config.json": b'{"r": 8}',
    "alice/adapter_model.safetensors": BIG,
    "bob one/adapter_config.json": b"{}",
    "bob one/\u00e9.json": b"[]",
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with fake_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint_url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        hub.commit(FILES)
        # Its waits of 1 to 8 s between tries are not what is tested here.
        with mock.patch("time.sleep", hub.waits.append):
            yield hub


def test_files_are_listed_in_key_order_with_their_hashes(hub: FakeHub) -> None:
    infos = list(open_store("hf://org/zoo").list())
    assert [info.key for info in infos] == sorted(FILES)
    assert {info.key: info.size for info in infos} == {k: len(v) for k, v in FILES.items()}
    versions = {info.key: info.version for info in infos}
    assert versions["alice/adapter_model.safetensors"] == hashlib.sha256(BIG).hexdigest()
    assert versions["README.md"] == hashlib.sha1(b"blob 5\0# Zoo").hexdigest()


def test_files_are_read_whole_and_by_range(hub: FakeHub) -> None:
    store = open_store("hf://org/zoo")
    for key, data in FILES.items():
        assert store.read(key) == data
        assert store.stat(key).size == len(data)
    key = "alice/adapter_model.safetensors"
    asked = [ByteRange(3_000_000, 3_000_100), ByteRange(0, 8), ByteRange(9, 9), ByteRange(20, 99)]
    before = (store.requests, store.bytes_read)
    views = store.read_ranges(key, asked)
    assert [bytes(view) for view in views] == [BIG[r.start : r.end] for r in asked]
    assert store.requests - before[0] == 2
    assert store.bytes_read - before[1] == 100 + 99


def test_a_folder_is_a_root_of_its_own(hub: FakeHub) -> None:
    store = open_store("hf://org/zoo/alice")
    assert [info.key for info in store.list()] == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert [info.key for info in store.list("adapter_m")] == ["adapter_model.safetensors"]
    assert store.read("adapter_config.json") == FILES["alice/adapter_config.json"]
    with pytest.raises(ObjectNotFound):
        list(open_store("hf://org/zoo/carol").list())


def test_everything_is_read_from_the_commit_resolved_first(hub: FakeHub) -> None:
    store = open_store("hf://org/zoo")
    first = store.revision
    hub.commit({"README.md": b"changed", "new": b""})
    assert store.revision == first
    assert store.read("README.md") == b"# Zoo"
    assert len(list(store.list())) == len(FILES)
    assert open_store("hf://org/zoo").read("README.md") == b"changed"


def test_a_pickled_store_stays_at_its_commit(hub: FakeHub) -> None:
    store = open_store("hf://org/zoo")
    pickled = pickle.dumps(store)
    hub.commit({"README.md": b"changed"})
    copy = pickle.loads(pickled)
    assert isinstance(copy, HubStore)
    assert copy.uri == store.uri == "hf://org/zoo"
    assert copy.revision == store.revision
    assert copy.read("README.md") == b"# Zoo"
    assert (copy.requests, store.requests) == (1, 0)


def test_revisions_are_branches_tags_or_commits(hub: FakeHub) -> None:
    old = hub.refs["main"]
    new = hub.commit({"README.md": b"changed"}, ref="feature/x")
    assert open_store("hf://org/zoo@main").revision == old
    assert open_store("hf://org/zoo@feature%2Fx").revision == new
    assert open_store(f"hf://org/zoo@{new}").read("README.md") == b"changed"
    with pytest.raises(ObjectNotFound, match="no such revision"):
        list(open_store("hf://org/zoo@nowhere").list())


def test_what_is_not_there_is_not_found(hub: FakeHub) -> None:
    store = open_store("hf://org/zoo")
    for use in (store.stat, store.read, lambda key: store.read_ranges(key, [ByteRange(0, 1)])):
        with pytest.raises(ObjectNotFound, match="hf://org/zoo/nothing"):
            use("nothing")
    with pytest.raises(ObjectNotFound, match="or it is private"):
        list(open_store("hf://org/other").list())


def test_a_private_repository_is_read_with_a_token(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.token, hub.repos["org/zoo"].private = "hf_secret", True
    with pytest.raises(ObjectNotFound, match="HF_TOKEN"):
        open_store("hf://org/zoo").read("README.md")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    store = open_store("hf://org/zoo")
    assert store.read("README.md") == b"# Zoo"
    assert store.read("alice/adapter_model.safetensors") == BIG


def test_a_gated_repository_is_denied(hub: FakeHub) -> None:
    hub.gated = True
    with pytest.raises(AccessDenied, match="gated") as caught:
        list(open_store("hf://org/zoo").list())
    assert "Accept its terms" in caught.value.hint


@pytest.mark.parametrize(
    "bad", [ByteRange(0, len(BIG) + 1), ByteRange(len(BIG), len(BIG) + 5), ByteRange(7, 3)]
)
def test_a_range_past_the_end_is_an_error(hub: FakeHub, bad: ByteRange) -> None:
    with pytest.raises(StorageError) as caught:
        open_store("hf://org/zoo").read_ranges("alice/adapter_model.safetensors", [bad])
    assert type(caught.value) is StorageError


def test_a_mirror_that_ignores_ranges_is_cut_to_them(hub: FakeHub) -> None:
    hub.ignore_ranges = True
    store = open_store("hf://org/zoo")
    assert bytes(store.read_ranges("README.md", [ByteRange(2, 5)])[0]) == b"Zoo"
    with pytest.raises(StorageError):
        store.read_ranges("README.md", [ByteRange(2, 6)])


def test_a_busy_hub_is_tried_again_and_then_given_up(hub: FakeHub) -> None:
    store = open_store("hf://org/zoo")
    assert store.revision
    hub.statuses = [503, 429, 500]
    assert store.read("README.md") == b"# Zoo"
    hub.statuses = [503] * 50
    with pytest.raises(StoreUnavailable, match="503"):
        store.read("README.md")
    assert len(hub.statuses) == 45


def test_a_hub_nobody_answers_for_is_unavailable(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store("hf://org/zoo")
    assert store.revision
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    for use in (lambda: store.read("README.md"), lambda: open_store("hf://org/zoo").stat("x")):
        with pytest.raises(StoreUnavailable, match="HF_ENDPOINT"):
            use()


def test_the_hub_is_not_written_to(hub: FakeHub) -> None:
    store = open_store("hf://org/zoo")
    uses: list[Callable[[], None]] = [
        lambda: store.create("a", b""),
        lambda: store.delete("README.md"),
        lambda: probe_create_only(store),
    ]
    for use in uses:
        with pytest.raises(ReadOnlyStore):
            use()
    assert hub.requests == []


def test_the_tree_is_asked_for_once(hub: FakeHub) -> None:
    store = open_store("hf://org/zoo")
    list(store.list())
    asked = len(hub.requests)
    list(store.list("alice/"))
    store.stat("README.md")
    assert len(hub.requests) == asked


def test_one_call_says_the_commit_and_what_is_in_it(hub: FakeHub) -> None:
    store = open_store("hf://org/zoo")
    assert store.revision == hub.refs["main"]
    here = list(store.list())
    assert of_models(hub) == ["GET /api/models/org/zoo?blobs=true"]
    assert list(open_store(f"hf://org/zoo@{store.revision}").list()) == here
    assert [info.key for info in open_store("hf://org/zoo/alice").list()] == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def of_models(hub: FakeHub) -> list[str]:
    """The calls about repositories and files, not those to where files are kept."""
    return [each for each in hub.requests if "org/" in each and "/cdn/" not in each]


@pytest.mark.parametrize("most", [0, len(FILES)])
def test_a_listing_that_may_lack_files_is_asked_for_by_the_page(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr("lego_ray.storage.hub_client.MOST_IN_INFO", most)
    infos = list(open_store("hf://org/zoo").list())
    assert [info.key for info in infos] == sorted(FILES)
    assert any("/tree/" in each for each in hub.requests)


def test_the_hub_is_asked_once_where_a_large_file_is_kept(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "alice/adapter_model.safetensors"
    hub.token, hub.repos["org/zoo"].private = "hf_secret", True
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    store = open_store("hf://org/zoo")
    version = store.stat(key).version
    for start in (0, 1_000_000, 2_000_000):
        [view] = store.read_ranges(key, [ByteRange(start, start + 9)], version)
        assert bytes(view) == BIG[start : start + 9]
    again = open_store(f"hf://org/zoo@{store.revision}")
    assert again.read(key, version) == BIG
    assert len([each for each in of_models(hub) if "/resolve/" in each]) == 1
    hub.links += 1  # the link has expired
    assert again.read(key, version) == BIG
    assert again.read(key, version) == BIG
    assert len([each for each in of_models(hub) if "/resolve/" in each]) == 2


def test_where_a_file_is_kept_is_asked_again_after_a_time(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lego_ray.storage.hub_links._SECONDS", -1)
    store, key = open_store("hf://org/zoo"), "alice/adapter_model.safetensors"
    for _ in range(2):
        store.read(key, store.stat(key).version)
    assert len([each for each in of_models(hub) if "/resolve/" in each]) == 2


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({}, 1),
        ({"Retry_After": "30"}, 31),
        ({"RateLimit": '"api";r=0;t=55'}, 56),
        ({"Retry_After": "86400"}, 300),
    ],
)
def test_every_call_waits_as_the_hub_says_within_bounds(
    hub: FakeHub, caplog: pytest.LogCaptureFixture, headers: dict[str, str], wait: float
) -> None:
    caplog.set_level("WARNING", "lego_ray")
    hub.answer_headers = headers
    store = open_store("hf://org/zoo")
    at_a_commit = open_store(f"hf://org/zoo@{hub.refs['main']}")
    for use in (
        lambda: store.revision,
        lambda: list(at_a_commit.list()),
        lambda: store.read("README.md"),
    ):
        hub.waits.clear()
        caplog.clear()
        hub.statuses = [429]
        assert use()
        assert hub.waits == [wait]
        assert ("too many requests" in caplog.text) == (wait > 5)


@pytest.fixture
def cached(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A commit of the repository that huggingface_hub has downloaded."""
    home = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(home))
    monkeypatch.setattr("lego_ray.storage.hub_client._UNREACHED", set())
    # Its real layout: https://huggingface.co/docs/huggingface_hub/guides/manage-cache
    commit, folder = hub.refs["main"], home / "models--org--zoo"
    for info in open_store("hf://org/zoo").list():
        blob, link = folder / "blobs" / info.version, folder / "snapshots" / commit / info.key
        for path in (blob, link):
            path.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(FILES[info.key])
        link.symlink_to(blob)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    return commit


def check_cached(store: Store, commit: str, before: list[ObjectInfo]) -> None:
    assert store.revision == commit
    assert list(store.list()) == before
    key = "alice/adapter_model.safetensors"
    assert store.read(key, hashlib.sha256(BIG).hexdigest()) == BIG
    assert bytes(store.read_ranges(key, [ByteRange(5, 9)])[0]) == BIG[5:9]
    assert [info.key for info in open_store("hf://org/zoo/alice").list()] == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_offline_the_local_cache_is_read(
    hub: FakeHub, cached: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = list(open_store("hf://org/zoo").list())
    hub.requests.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    check_cached(open_store("hf://org/zoo"), cached, before)
    assert hub.requests == []
    assert "the local cache is read" in caplog.text
    with pytest.raises(ObjectNotFound, match="hf download"):
        assert open_store("hf://org/other").revision
    with pytest.raises(ObjectNotFound, match="hf download"):
        assert open_store("hf://org/zoo@v9").revision


def test_a_hub_that_is_down_is_replaced_by_the_local_cache(
    hub: FakeHub, cached: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = list(open_store("hf://org/zoo").list())
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    check_cached(open_store("hf://org/zoo"), cached, before)
    assert "could not be reached" in caplog.text
    assert caplog.text.count("the local cache is read") == 1
    with pytest.raises(StoreUnavailable):
        assert open_store("hf://org/other").revision
