"""Files of web sites as sources: names, versions, parts, redirects, tokens, and what is no file."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

import lego_ray
from lego_ray.errors import (
    AccessDenied,
    InvalidOption,
    LegoRayError,
    ObjectNotFound,
    ReadOnlyStore,
    RecipeError,
    SourceChanged,
    StorageError,
    StoreUnavailable,
    UnsupportedUri,
)
from lego_ray.sources.find import open_source
from lego_ray.storage import open_store
from lego_ray.storage.base import ByteRange
from lego_ray.storage.carried import settings_here
from lego_ray.storage.uri import parse_uri
from lego_ray.storage.web_client import ATTEMPTS
from tests.image_zoo import write_kohya
from tests.storage.local_http import local_http

DATA = bytes(range(256)) * 40


class Site:
    """Files by path, how they are sent, and what was asked for."""

    def __init__(self) -> None:
        self.url = ""
        self.files: dict[str, bytes] = {}
        self.headers: dict[str, dict[str, str]] = {}
        self.redirects: dict[str, str] = {}
        self.statuses: dict[str, list[int]] = {}
        self.has_ranges = self.has_versions = True
        self.cuts = 0
        self.asked: list[tuple[str, dict[str, str]]] = []


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    site = Site()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, format: str, *args: object) -> None:
            pass

        def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            site.asked.append((self.path, dict(self.headers.items())))
            if waiting := site.statuses.get(self.path):
                self.answer(waiting.pop(0), b"", {})
            elif to := site.redirects.get(self.path):
                self.answer(302, b"", {"Location": to})
            elif (data := site.files.get(self.path)) is None:
                self.answer(404, b"<html>", {"Content-Type": "text/html"})
            else:
                headers = dict(site.headers.get(self.path, {}))
                if site.has_versions:
                    headers.setdefault("ETag", f'"{hashlib.md5(data).hexdigest()}"')
                asked = self.headers.get("Range") if site.has_ranges else None
                if asked:
                    start, last = (int(n) for n in asked.removeprefix("bytes=").split("-"))
                    part = data[start : last + 1]
                    end = start + len(part) - 1
                    headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
                    self.answer(206, part, headers)
                else:
                    if site.cuts:
                        site.cuts -= 1
                        self.close_connection = True
                        headers["Content-Length"] = str(len(data))
                        data = data[:-1]
                    self.answer(200, data, headers)

    with local_http(Handler) as site.url:
        yield site


def civitai(site: Site, data: bytes, name: str = "style.safetensors") -> str:
    """An address as of a hub of image models: it has no name, and redirects to another host."""
    site.files["/signed"] = data
    site.headers["/signed"] = {"Content-Disposition": f'attachment; filename="{name}"'}
    site.redirects["/api/download/models/7"] = (
        f"{site.url.replace('127.0.0.1', 'localhost')}/signed"
    )
    return f"{site.url}/api/download/models/7"


def test_a_file_is_read_in_place_by_its_own_name_or_the_one_the_site_gives(site: Site) -> None:
    site.files["/loras/a%20b.safetensors"] = DATA
    store, only = open_source(f"{site.url}/loras/a%20b.safetensors")
    assert only == "a%20b.safetensors"
    assert store.read(only) == DATA
    there = open_store(civitai(site, DATA))
    [info] = there.list()
    assert (info.key, info.size) == ("style.safetensors", len(DATA))
    parts = there.read_ranges(info.key, [ByteRange(9, 19), ByteRange(0, 3)], info.version)
    assert [bytes(part) for part in parts] == [DATA[9:19], DATA[:3]]
    assert there.bytes_read == 19
    # As a plan records it and a worker opens it.
    again, name = open_source(f"{there.uri}/style.safetensors")
    copy: Any = pickle.loads(pickle.dumps(again))
    assert copy.read(name, info.version) == DATA


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ('attachment; filename="../../etc/x.safetensors"', "x.safetensors"),
        ("attachment; filename*=UTF-8''st%C3%BCl.safetensors", "stül.safetensors"),
        ('attachment; filename=".."', "7"),
        ("inline", "7"),
    ],
)
def test_a_name_that_a_site_gives_has_no_folder(site: Site, given: str, expected: str) -> None:
    address = civitai(site, DATA)
    site.headers["/signed"] = {"Content-Disposition": given}
    assert [info.key for info in open_store(address).list()] == [expected]


def test_a_merge_of_files_of_a_site_has_the_bytes_of_a_local_one(
    site: Site, tmp_path: Path
) -> None:
    paths = [tmp_path / "zoo" / f"{name}.safetensors" for name in ("first", "second")]
    for number, path in enumerate(paths):
        write_kohya(path, seed=number)
    site.files["/loras/first.safetensors"] = paths[0].read_bytes()
    sources = [
        f"{site.url}/loras/first.safetensors",
        civitai(site, paths[1].read_bytes(), "second.safetensors"),
    ]
    local = lego_ray.merge(paths, rank=2, output=tmp_path / "local", runner="inline")
    merged = lego_ray.merge(sources, rank=2, output=tmp_path / "far", runner="inline")
    assert len(merged.adapters) == len(local.adapters) == 2
    weights = [next((tmp_path / name).glob("*.safetensors")) for name in ("local", "far")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    site.files["/loras/first.safetensors"] += b"x"
    with pytest.raises(LegoRayError):
        lego_ray.verify(tmp_path / "far", sources=sources)


@pytest.mark.parametrize("has_versions", [True, False])
def test_without_parts_a_file_is_cached_by_the_hash_of_its_bytes(
    site: Site, tmp_path: Path, has_versions: bool
) -> None:
    site.has_ranges, site.has_versions = False, has_versions
    site.files["/x.safetensors"] = DATA
    store = open_store(f"{site.url}/x.safetensors")
    [info] = store.list()
    assert store.read(info.key, info.version) == DATA
    (copy,) = (tmp_path / "cache/lego-ray/web").iterdir()
    assert copy.name.endswith(hashlib.sha256(DATA).hexdigest())
    before = len(site.asked)
    assert bytes(store.read_ranges(info.key, [ByteRange(1, 5)], info.version)[0]) == DATA[1:5]
    assert len(site.asked) == before
    site.files["/x.safetensors"] = DATA[::-1]
    with pytest.raises(SourceChanged):
        open_store(f"{site.url}/x.safetensors").read(info.key, info.version)


def test_a_damaged_copy_is_fetched_again(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.has_ranges = False
    site.files["/x.safetensors"] = DATA
    assert open_store(f"{site.url}/x.safetensors").read("x.safetensors") == DATA
    (copy,) = (tmp_path / "cache/lego-ray/web").iterdir()
    copy.write_bytes(b"damaged")
    monkeypatch.setattr("lego_ray.storage.web_cache._CHECKED", set())  # as in another process
    assert open_store(f"{site.url}/x.safetensors").read("x.safetensors") == DATA


def test_an_answer_that_is_cut_short_is_not_kept(site: Site, tmp_path: Path) -> None:
    site.has_ranges, site.cuts = False, 2
    site.files["/x.safetensors"] = DATA
    with pytest.raises(StoreUnavailable, match="cut short"):
        open_store(f"{site.url}/x.safetensors").read("x.safetensors")
    assert list((tmp_path / "cache/lego-ray/web").iterdir()) == []


def test_a_file_that_changed_is_not_mixed_with_what_was_scanned(site: Site) -> None:
    site.files["/x.safetensors"] = DATA
    store = open_store(f"{site.url}/x.safetensors")
    [info] = store.list()
    site.files["/x.safetensors"] = DATA[::-1]
    with pytest.raises(SourceChanged):
        store.read_ranges(info.key, [ByteRange(0, 9)], info.version)


def test_a_token_goes_to_its_own_host_alone_and_is_never_said(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lego-ray.toml").write_text(
        '[sites."127.0.0.1"]\nheaders = { Authorization = "Bearer $SITE_TOKEN" }\n'
    )
    address = civitai(site, DATA)
    with pytest.raises(AccessDenied, match="SITE_TOKEN, which is not set"):
        list(open_store(address).list())
    monkeypatch.setenv("SITE_TOKEN", "s3cret")
    assert open_store(address).read("style.safetensors") == DATA
    sent = {path: headers.get("Authorization") for path, headers in site.asked}
    assert sent["/api/download/models/7"] == "Bearer s3cret"
    assert sent["/signed"] is None
    site.statuses["/api/download/models/7"] = [403]
    with pytest.raises(AccessDenied) as caught:
        list(open_store(address).list())
    assert "s3cret" not in f"{caught.value}{settings_here()}"
    assert "$SITE_TOKEN" in settings_here()["LEGO_RAY_SITES"]
    for name, value in settings_here().items():  # as a worker gets it, which has no such file
        monkeypatch.setenv(name, value)
    (tmp_path / "lego-ray.toml").unlink()
    assert open_store(address).read("style.safetensors") == DATA


@pytest.mark.parametrize(
    ("settings", "kind", "said"),
    [
        ('headers = { Authorization = "Bearer s3cret" }', InvalidOption, "names no variable"),
        ("header = 3", RecipeError, "header"),
    ],
)
def test_settings_of_a_site_are_checked(
    site: Site, tmp_path: Path, settings: str, kind: type[LegoRayError], said: str
) -> None:
    (tmp_path / "lego-ray.toml").write_text(f'[sites."127.0.0.1"]\n{settings}\n')
    with pytest.raises(kind, match=said) as caught:
        list(open_store(f"{site.url}/x").list())
    assert "s3cret" not in str(caught.value)


def test_a_variable_that_is_damaged_is_said(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEGO_RAY_SITES", "{")
    with pytest.raises(InvalidOption, match="not JSON"):
        list(open_store(f"{site.url}/x").list())


@pytest.mark.parametrize("path", ["/models/7", "/loras/x.safetensors"])
def test_a_web_page_is_refused_with_what_to_give_instead(site: Site, path: str) -> None:
    site.files[path] = b"<!DOCTYPE html>"
    site.headers[path] = {"Content-Type": "text/html; charset=utf-8"}
    with pytest.raises(ObjectNotFound, match=r"a web page came.*downloads the file") as caught:
        lego_ray.scan(f"{site.url}{path}")
    assert caught.value.where == f"{site.url}{path}"
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("statuses", "kind", "said"),
    [
        ([404], ObjectNotFound, "404"),
        ([401], AccessDenied, r"\[sites."),
        ([429] * ATTEMPTS, StoreUnavailable, f"429 Too Many Requests, {ATTEMPTS} times"),
        ([418], StorageError, "418"),
        ([503, 503], None, ""),
    ],
)
def test_a_refusal_is_said_with_what_to_do(
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    statuses: list[int],
    kind: type[StorageError] | None,
    said: str,
) -> None:
    monkeypatch.setattr("lego_ray.storage.web_client.time.sleep", lambda seconds: None)
    site.files["/x"], site.statuses["/x"] = DATA, statuses
    store = open_store(f"{site.url}/x")
    if kind is None:
        assert store.read("x") == DATA
        return
    with pytest.raises(kind, match=said):
        list(store.list())


@pytest.mark.parametrize("status", [403, 404])
def test_a_file_beside_it_that_a_site_does_not_show_is_not_there(site: Site, status: int) -> None:
    site.files["/loras/x.safetensors"] = DATA
    site.statuses["/loras/adapter_config.json"] = [status]
    store = open_store(f"{site.url}/loras")
    assert store.stat("x.safetensors").size == len(DATA)
    with pytest.raises(ObjectNotFound):
        store.stat("adapter_config.json")


def test_a_site_is_not_written(site: Site) -> None:
    store = open_store(f"{site.url}/x")
    writes: list[Callable[[], object]] = [
        lambda: store.create("a", b""),
        lambda: store.create_from("a", 0, []),
        lambda: store.delete("a"),
    ]
    for write in writes:
        with pytest.raises(ReadOnlyStore):
            write()
    with pytest.raises(StorageError):
        lego_ray.merge(f"{site.url}/x", rank=2, output=f"{site.url}/out", runner="inline")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://host/a/b.safetensors#top", "https://host/a/b.safetensors"),
        ("HTTPS://host/a?x=1&y=2", "https://host/a?x=1&y=2"),
        ("http://localhost:8000/x", "http://localhost:8000/x"),
    ],
)
def test_an_address_is_a_place(address: str, expected: str) -> None:
    assert str(parse_uri(address)) == str(parse_uri(expected)) == expected


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://host/x", "Use https"),
        ("https://", "no host"),
        ("https://user:pw@host/x", "credentials"),
        ("https://host/x?token=abc", "credentials"),
    ],
)
def test_an_address_that_is_not_safe_is_refused(address: str, said: str) -> None:
    with pytest.raises(UnsupportedUri, match=said) as caught:
        parse_uri(address)
    assert "pw" not in str(caught.value)
    assert "abc" not in str(caught.value)
