"""`gs://` and `az://` beyond the contract: runs, catalogs, settings, and what a server may do."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import lego_ray
from lego_ray.catalog.opening import check_store, open_catalog
from lego_ray.errors import (
    AccessDenied,
    InvalidOption,
    LegoRayError,
    MissingPackage,
    ObjectNotFound,
    SourceChanged,
    StorageError,
    StoreUnavailable,
    UnsupportedUri,
)
from lego_ray.storage import Store, cloud_role, delta_storage_options, open_store
from lego_ray.storage.base import ByteRange
from lego_ray.storage.buckets import BucketSettings, buckets_in_use
from lego_ray.storage.cloud import UPLOAD_PART
from lego_ray.storage.cloud_errors import meaning
from lego_ray.storage.file_walk import TEMPORARY
from lego_ray.storage.remains import remove, temporaries
from lego_ray.storage.uri import parse_uri
from tests.catalog.sample import merge
from tests.storage.fake_gcs import FakeGcs, environ, fake_gcs
from tests.zoo import write_zoo

WRITERS = 4


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGcs]:
    """A server whose answers the test gives."""
    with fake_gcs() as server:
        for name, value in environ(server.endpoint).items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def here(fake: FakeGcs) -> Store:
    return open_store("gs://bucket/root")


@pytest.mark.parametrize(
    ("scheme", "fixture"),
    [("gs", "gcs_bucket"), pytest.param("az", "az_front", marks=pytest.mark.az)],
)
def test_no_commit_of_several_writers_is_lost(
    scheme: str, fixture: str, request: pytest.FixtureRequest
) -> None:
    uri = f"{scheme}://{request.getfixturevalue(fixture)}/my catalog"
    check_store(open_catalog(uri))

    def append(number: int) -> None:
        open_catalog(uri).append("merges", [{**merge(), "merge_id": f"{number:064x}"}])

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(append, range(WRITERS)))
    found = open_catalog(uri).read("merges", ["merge_id"])["merge_id"].to_pylist()
    assert sorted(found) == [f"{number:064x}" for number in range(WRITERS)]
    assert any(info.key.startswith("merges/_delta_log/") for info in open_store(uri).list())


@pytest.mark.az
def test_a_merge_from_one_cloud_to_the_other_has_the_bytes_of_a_local_one(
    gcs_bucket: str, az_container: str, tmp_path: Path
) -> None:
    zoo = write_zoo(tmp_path / "zoo", 3)
    there = open_store(f"az://{az_container}/zoo")
    for path in sorted(zoo.rglob("*")):
        if path.is_file():
            there.create(path.relative_to(zoo).as_posix(), path.read_bytes())
    local = lego_ray.merge(zoo, rank=2, output=tmp_path / "out", runner="inline")
    output, catalog = f"gs://{gcs_bucket}/out", f"gs://{gcs_bucket}/catalog"
    record = lego_ray.merge(there.uri, rank=2, output=output, catalog=catalog, runner="inline")
    assert (record.status, len(record.adapters)) == ("published", len(local.adapters))
    weights = "adapter_model.safetensors"
    assert open_store(output).read(weights) == (tmp_path / "out" / weights).read_bytes()
    assert open_catalog(catalog).read("merges").num_rows == 1
    again = lego_ray.merge(there.uri, rank=2, output=output, catalog=catalog, runner="inline")
    assert again.status == "already published"
    (info,) = [each for each in there.list() if each.key.endswith("safetensors")][:1]
    there.delete(info.key)
    with pytest.raises(SourceChanged):
        there.read(info.key, info.version)


def test_a_put_whose_answer_was_lost_is_known_as_ours(fake: FakeGcs, here: Store) -> None:
    fake.loses_next_answer = True
    here.create("a", b"x")
    assert here.read("a") == b"x"


def test_bytes_are_those_of_the_version_that_was_listed(fake: FakeGcs, here: Store) -> None:
    here.create("a", b"one")
    version = here.stat("a").version
    assert here.read("a", version) == b"one"
    fake.put("bucket/root/a", b"two", {}, creates=False)
    for read in (
        lambda: here.read("a", version),
        lambda: here.read_ranges("a", [ByteRange(0, 1)], version),
    ):
        with pytest.raises(SourceChanged, match="replaced or rewritten"):
            read()


@pytest.mark.parametrize(
    ("status", "kind", "hint"),
    [
        (403, AccessDenied, "gcloud auth"),
        (401, AccessDenied, "gcloud auth"),
        (404, ObjectNotFound, "Check the path"),
        (400, StorageError, "Run the same"),
    ],
)
def test_a_refusal_is_said_with_what_to_do(
    fake: FakeGcs, here: Store, status: int, kind: type[LegoRayError], hint: str
) -> None:
    here.create("a", b"x")
    fake.answers["GET"] = [status]
    with pytest.raises(kind, match=hint) as caught:
        here.read("a")
    assert type(caught.value) is kind
    assert caught.value.where == "gs://bucket/root/a"
    assert "Debug source" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("non-2xx status code: 503 Service Unavailable", StoreUnavailable, "503"),
        ("HTTP error: error sending request", StoreUnavailable, "sending"),
        ("Error performing GET http://169.254.169.254/x - HTTP error", AccessDenied, "no cred"),
        ("non-2xx status code: 404: <Code>NoSuchBucket</Code>", ObjectNotFound, "no such bucket"),
        ("status code: 404: <Code>ContainerNotFound</Code>", ObjectNotFound, "no such bucket"),
        ("non-2xx status code: 416 Range Not Satisfiable", StorageError, "past the end"),
        ("https://a.example/x?sv=1&sig=abcdef&x=1 failed", StorageError, r"&\*\*\*&x=1"),
    ],
)
def test_what_the_library_says_has_a_meaning(
    text: str, kind: type[StorageError], said: str
) -> None:
    from obstore.exceptions import GenericError

    found = meaning("az://c/x", GenericError(f"Generic error: {text}\n\nDebug source:\nInner(..)"))
    assert type(found) is kind
    assert re.search(said, str(found))
    assert "Inner" not in str(found)


def test_what_a_killed_writer_left_is_hidden_found_and_removed(here: Store, fake: FakeGcs) -> None:
    left = [f"{TEMPORARY}{'0' * 16}", f"deep/{TEMPORARY}{'1' * 16}"]
    for key in ("a", *left):
        fake.put(f"bucket/root/{key}", b"x", {}, creates=True)
    assert [info.key for info in here.list()] == ["a"]
    assert [info.key for info in temporaries(here)] == left
    assert [info.key for info in temporaries(here, below=False)] == left[:1]
    for key in left:
        remove(here, key)
    assert sorted(fake.objects) == ["bucket/root/a"]


def test_a_large_upload_that_fails_leaves_nothing(here: Store, fake: FakeGcs) -> None:
    fake.answers["PUT"] = [400]
    with pytest.raises(StorageError):
        here.create_from("big", UPLOAD_PART + 1, [bytes(UPLOAD_PART), b"x"])
    assert (fake.objects, fake.uploads) == ({}, {})


def test_a_folder_that_a_console_made_is_not_an_object(here: Store, fake: FakeGcs) -> None:
    for key in ("zoo/", "zoo/a/", "zoo/a/b"):
        fake.put(f"bucket/root/{key}", b"", {}, creates=True)
    assert [info.key for info in here.list()] == ["zoo/a/b"]


def test_without_obstore_the_error_names_the_extra(
    fake: FakeGcs, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "obstore"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "obstore", None)
    store = open_store("gs://bucket-that-no-client-has/x")
    uses: list[Callable[[], object]] = [
        lambda: list(store.list()),
        lambda: store.read("a"),
        lambda: store.create("a", b""),
        lambda: store.delete("a"),
    ]
    for use in uses:
        with pytest.raises(MissingPackage, match=r"lego-ray\[cloud\]"):
            use()


@pytest.mark.parametrize(
    ("uri", "settings", "expected"),
    [
        ("gs://b/x", {"anonymous": True}, {"google_skip_signature": "true"}),
        ("gs://b/x", {"endpoint": "https://g"}, {"google_base_url": "https://g"}),
        ("az://b", {"account": "acme"}, {"azure_storage_account_name": "acme"}),
    ],
)
def test_a_bucket_has_settings_of_its_own(
    uri: str,
    settings: dict[str, object],
    expected: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", "/an/account.json")
    with buckets_in_use({"b": BucketSettings.model_validate(settings)}):
        assert delta_storage_options(parse_uri(uri)) == expected


@pytest.mark.parametrize(
    ("uri", "settings", "kind", "said"),
    [
        ("az://b/x", {}, AccessDenied, "AZURE_STORAGE_ACCOUNT_NAME"),
        ("gs://b/x", {"profile": "p"}, InvalidOption, "gs:// has no profile"),
        ("gs://b/x", {"account": "p"}, InvalidOption, "gs:// has no account"),
        ("s3://b/x", {"account": "p"}, InvalidOption, "s3:// has no account"),
        ("gs://b/x", {"endpoint": "https://u:p@host"}, UnsupportedUri, "credentials"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(
    uri: str, settings: dict[str, object], kind: type[LegoRayError], said: str
) -> None:
    with (
        buckets_in_use({"b": BucketSettings.model_validate(settings)}),
        pytest.raises(kind, match=said) as caught,
    ):
        list(open_store(uri).list())
    assert caught.value.exit_code == 2


def test_no_credentials_of_google_are_said_before_a_client_asks_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(os.environ):
        if name.startswith("GOOGLE_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        monkeypatch.setattr(cloud_role, "ROLE_SERVER", server.getsockname())
        with pytest.raises(AccessDenied, match="gs://bucket/x: no credentials are found") as caught:
            open_store("gs://bucket/x").read("a")  # nobody listens there
        assert "GOOGLE_APPLICATION_CREDENTIALS" in caught.value.hint
        with pytest.raises(AccessDenied, match="no credentials are found"):
            delta_storage_options(parse_uri("gs://bucket/x"))
        cloud_role._answers.cache_clear()
        server.listen()
        cloud_role.check_google_credentials("gs://bucket/x")
        cloud_role._answers.cache_clear()
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "a-file")
    cloud_role.check_google_credentials("gs://bucket/x")
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
    login = tmp_path / ".config" / "gcloud" / "application_default_credentials.json"
    login.parent.mkdir(parents=True)
    login.write_text("{}")
    cloud_role.check_google_credentials("gs://bucket/x")
    with buckets_in_use({"bucket": BucketSettings.model_validate({"anonymous": True})}):
        login.unlink()
        assert delta_storage_options(parse_uri("gs://bucket/x"))


def test_a_role_that_is_refused_is_no_credentials() -> None:
    said = (
        "Generic GCS error: Error performing token request: Error performing GET "
        "http://169.254.169.254/computeMetadata/v1/instance/service-accounts/default/token in 1ms - "
        "Server returned non-2xx status code: 403 Forbidden"
    )
    found = meaning("gs://bucket/x", OSError(said))
    assert isinstance(found, AccessDenied)
    assert found.problem == "no credentials are found"


def test_settings_that_obstore_refuses_are_said(
    fake: FakeGcs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", "not json")
    with pytest.raises(InvalidOption, match="settings cannot be used"):
        open_store("gs://bucket/x").read("a")
