"""Reads that name a version: all bytes are that version's, or `SourceChanged` says so."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lego_ray.errors import ObjectNotFound, RunFailed, SourceChanged
from lego_ray.storage import ByteRange, FileStore, HubStore, RangedFile, S3Store, Store, open_store
from lego_ray.storage.fetch import fetch_ranges
from lego_ray.storage.s3_body import CutBodyError, read_body
from tests.storage.fake_hub import FakeHub, used_hub
from tests.storage.fake_s3 import fake_s3

OLD, NEW = b"o" * 300_000, b"n" * 300_000
PARTS = [ByteRange(0, 10), ByteRange(150_000, 150_010), ByteRange(299_990, 300_000)]


@pytest.fixture(params=[pytest.param("file"), pytest.param("s3", marks=pytest.mark.s3)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "file":
        return open_store(str(tmp_path / "root"))
    return open_store(f"s3://{request.getfixturevalue('s3_bucket')}/root")


def put(store: Store, data: bytes) -> str:
    """Writes the object again; returns its version."""
    store.delete("a")
    store.create("a", data)
    return store.stat("a").version


def test_a_version_is_read_as_long_as_it_is_there(store: Store) -> None:
    version = put(store, OLD)
    assert [info.version for info in store.list()] == [version]
    assert store.read("a", version) == OLD
    assert [bytes(part) for part in store.read_ranges("a", PARTS, version)] == [b"o" * 10] * 3


def test_another_version_is_not_read(store: Store) -> None:
    version = put(store, OLD)
    assert put(store, NEW) != version
    for read in (lambda: store.read("a", version), lambda: store.read_ranges("a", PARTS, version)):
        with pytest.raises(SourceChanged, match="replaced or rewritten") as caught:
            read()
        assert caught.value.where == f"{store.uri}/a"
    assert store.read("a") == NEW


def test_an_object_that_is_gone_is_a_change_where_a_version_is_named(store: Store) -> None:
    version = put(store, OLD)
    store.delete("a")
    for read in (lambda: store.read("a", version), lambda: store.read_ranges("a", PARTS, version)):
        with pytest.raises(SourceChanged, match="was there when it was scanned"):
            read()
    with pytest.raises(ObjectNotFound):
        store.read("a")


def test_a_file_read_in_blocks_is_of_one_version(store: Store) -> None:
    version = put(store, OLD)
    file = RangedFile(store, "a", len(OLD), version)
    assert file.read(10) == b"o" * 10
    put(store, NEW)
    file.seek(250_000)
    with pytest.raises(SourceChanged):
        file.read(10)


def test_the_error_survives_pickling() -> None:
    error = SourceChanged("s3://zoo/a/b", "it was replaced", "Wait.", "s3://zoo/a")
    again = pickle.loads(pickle.dumps(error))
    assert (again.where, again.adapter, str(again)) == (error.where, error.adapter, str(error))
    assert isinstance(again, RunFailed)
    assert again.exit_code == 1


def rename(path: Path) -> None:
    beside = path.with_name("beside")
    beside.write_bytes(NEW)
    beside.replace(path)


def rewrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(NEW)


def truncate(path: Path) -> None:
    os.truncate(path, 1000)


@pytest.mark.parametrize("change", [rename, rewrite, truncate, Path.unlink])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_file_that_changes_while_it_is_open_is_a_change(
    change: Callable[[Path], Any], moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lego_ray.storage import file

    store = FileStore(tmp_path)
    version = put(store, OLD)

    def changing(*arguments: Any, **options: Any) -> Any:
        if moment == "before":
            change(tmp_path / "a")
        found = fetch_ranges(*arguments, **options)
        if moment == "after":
            change(tmp_path / "a")
        return found

    monkeypatch.setattr(file, "fetch_ranges", changing)
    with pytest.raises(SourceChanged) as caught:
        store.read_ranges("a", PARTS, version)
    assert caught.value.where == str(tmp_path / "a")


@pytest.mark.s3
def test_a_body_that_breaks_off_is_asked_for_again_in_the_same_version(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lego_ray.storage import s3

    store = S3Store(s3_bucket)
    version = put(store, OLD)
    replacing = [True]

    def breaking(body: Any, into: memoryview) -> int:
        count = read_body(body, into)
        if replacing and replacing.pop():
            put(store, NEW)
            raise CutBodyError("here")
        return count

    monkeypatch.setattr(s3, "read_body", breaking)
    with pytest.raises(SourceChanged):
        store.read_ranges("a", [ByteRange(0, 100)], version)


def test_a_server_that_takes_no_notice_of_if_match_is_caught_by_its_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with fake_s3() as fake:
        monkeypatch.setenv("AWS_ENDPOINT_URL", fake.endpoint_url)
        monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "key")
        fake.objects["/bucket/a"] = OLD
        store = open_store("s3://bucket")
        assert store.read("a", "tag") == OLD
        with pytest.raises(SourceChanged):
            store.read("a", "another")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with used_hub(monkeypatch) as hub:
        yield hub


@pytest.mark.parametrize("name", ["a.safetensors", "a.json"])
def test_the_hub_is_read_at_the_commit_that_was_scanned(hub: FakeHub, name: str) -> None:
    hub.commit({name: OLD})
    store = HubStore("org/zoo")
    version = store.stat(name).version
    hub.commit({name: NEW})
    for each in (store, pickle.loads(pickle.dumps(store))):
        assert each.read(name, version) == OLD
        assert bytes(each.read_ranges(name, [ByteRange(0, 5)], version)[0]) == b"ooooo"


@pytest.mark.parametrize("name", ["a.safetensors", "a.json"])
def test_other_bytes_at_a_commit_of_the_hub_are_a_change(hub: FakeHub, name: str) -> None:
    commit = hub.commit({name: OLD})
    store = HubStore("org/zoo")
    version = store.stat(name).version
    hub.repos["org/zoo"].commits[commit][name] = NEW  # as only a mirror would do
    with pytest.raises(SourceChanged):
        store.read(name, version)
    with pytest.raises(SourceChanged):
        store.read_ranges(name, [ByteRange(0, 5)], version)


def test_a_mirror_may_have_marks_of_its_own(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "tests.storage.fake_hub.oid_of", lambda data: hashlib.sha1(data).hexdigest()
    )
    commit = hub.commit({"adapter_config.json": OLD})
    store = HubStore("org/zoo")
    version = store.stat("adapter_config.json").version
    assert store.read("adapter_config.json", version) == OLD
    hub.repos["org/zoo"].commits[commit]["adapter_config.json"] = NEW
    with pytest.raises(SourceChanged):
        store.read("adapter_config.json", version)
