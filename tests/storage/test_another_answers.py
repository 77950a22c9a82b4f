"""Another answers in the place of a store, or a setting cannot be right: said as what it is, at once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from lego_ray.catalog.failures import translate
from lego_ray.errors import (
    AccessDenied,
    InvalidOption,
    StorageError,
    StoreUnavailable,
    UnsupportedUri,
)
from lego_ray.storage import open_store
from lego_ray.storage.delta_options import delta_storage_options
from lego_ray.storage.hub_errors import hub_errors
from lego_ray.storage.hub_patience import asked_to_wait
from lego_ray.storage.uri import parse_uri
from tests.ceph_gateway import S3Server
from tests.storage.local_http import local_http


@pytest.fixture(scope="module")
def answers() -> Iterator[tuple[str, list[int]]]:
    """A server that answers anything with a status and no body of S3's."""
    status: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            self.send_response(status[-1])
            self.send_header("Location", "http://127.0.0.1:9/login")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_HEAD(self) -> None:
            self.do_GET()

    with local_http(Handler) as url:
        yield url, status


@pytest.fixture(autouse=True)
def server(answers: tuple[str, list[int]], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Points boto3 at it."""
    for name, value in S3Server(answers[0], "key", "secret").environ().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda seconds: None)
    return answers[1]


@pytest.mark.parametrize(
    ("status", "said", "hint"),
    [
        (200, "not a listing of S3", "not an S3 server"),  # or the place would seem to be empty
        (302, "redirects every request", "not an S3 server"),
        (407, "the proxy answered 407", "HTTP_PROXY"),
    ],
)
def test_what_is_not_a_store_is_said(server: list[int], status: int, said: str, hint: str) -> None:
    server.append(status)
    with pytest.raises(StoreUnavailable, match=said) as caught:
        list(open_store("s3://bucket/zoo").list())
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (
            "Generic S3 error: Got invalid list response: unexpected `Event::Eof`",
            "not an S3 server",
        ),
        ("Server returned non-2xx status code: 407 Proxy Authentication Required: x", "HTTP_PROXY"),
    ],
)
def test_the_catalog_says_so_too(text: str, hint: str) -> None:
    found = translate("s3://b/c", OSError(text))
    assert isinstance(found, StoreUnavailable)
    assert hint in found.hint


@pytest.mark.parametrize(
    ("variables", "where"),
    [
        ({"AWS_ACCESS_KEY_ID": "key\n"}, "AWS_ACCESS_KEY_ID"),
        ({"AWS_SECRET_ACCESS_KEY": " secret"}, "AWS_SECRET_ACCESS_KEY"),
        ({"AWS_SESSION_TOKEN": "a\nb"}, "AWS_SESSION_TOKEN"),
        ({"NO_PROXY": "", "HTTP_PROXY": "http://[::1"}, "HTTP_PROXY"),
        ({"NO_PROXY": "", "HTTP_PROXY": "http://proxy:port"}, "HTTP_PROXY"),
        ({"AWS_ENDPOINT_URL": "ftp://host:9"}, "ftp://host:9"),
    ],
)
def test_a_variable_that_cannot_be_right_is_named_by_all_clients(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], where: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for ask in (
        lambda: open_store("s3://bucket").read("a"),
        lambda: delta_storage_options(parse_uri("s3://bucket")),
    ):
        with pytest.raises((InvalidOption, UnsupportedUri)) as caught:
            ask()
        assert caught.value.where == where
        assert "secret" not in str(caught.value).replace("A secret of Kubernetes", "")


def test_keys_of_the_environment_do_not_count_beside_a_profile(
    server: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server.append(407)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key\n")
    (tmp_path / "credentials").write_text(
        "[other]\naws_access_key_id = a\naws_secret_access_key = b\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("LEGO_RAY_BUCKETS", '{"bucket": {"profile": "other"}}')
    with pytest.raises(StoreUnavailable):
        open_store("s3://bucket").read("a")


@pytest.mark.parametrize(
    "variables",
    [
        {"AWS_REQUEST_CHECKSUM_CALCULATION": "sometimes"},
        {"AWS_REGION": "no region!", "AWS_DEFAULT_REGION": "no region!"},
        {"AWS_CONFIG_FILE": __file__},
    ],
)
def test_a_setting_of_aws_that_boto3_does_not_take_is_to_be_fixed_there(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StorageError) as caught:
        open_store("s3://bucket").read("a")
    assert "Fix this setting" in caught.value.hint


def test_another_answers_for_the_hub() -> None:
    with pytest.raises(StoreUnavailable, match="something else answers"), hub_errors("hf://o/n"):
        {"ok": True}["id"]
    with pytest.raises(AccessDenied, match="no token has"), hub_errors("hf://o/n"):
        "Bearer hf_\xfc".encode("ascii")


def test_the_hub_is_waited_for_until_a_date_too() -> None:
    assert 28 <= asked_to_wait({"retry-after": formatdate(time.time() + 30, usegmt=True)}) <= 32
    assert asked_to_wait({"retry-after": formatdate(time.time() - 30, usegmt=True)}) == 0
    assert asked_to_wait({"retry-after": "2.5"}) == 3.5
    assert asked_to_wait({"retry-after": "soon"}) == 0
    assert asked_to_wait({"retry-after": "3", "ratelimit": '"api";r=0;t=55'}) == 56
