"""What a server says is in the error, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import pytest

from lego_ray.catalog.failures import translate
from lego_ray.errors import AccessDenied, CatalogError, StorageError, StoreUnavailable
from lego_ray.storage import open_store
from tests.ceph_gateway import S3Server
from tests.storage.local_http import local_http

REFUSALS = [
    (403, "RequestTimeTooSkewed", "The difference between the times is too large.", "clock"),
    (403, "InvalidObjectState", "Not valid for the object's storage class", "Restore it"),
    (403, "AccessDenied", "Not authorized to perform: kms:Decrypt on this", "kms:GenerateDataKey"),
    (403, "AccessDenied", "u is not authorized to perform: s3:GetObject", "Allow that action"),
    (403, "AccessDenied", "Bucket is a Requester Pays bucket.", "requester_pays = true"),
    (403, "SignatureDoesNotMatch", "The signature does not match.", "AWS_SECRET_ACCESS_KEY"),
    (403, "AccessDenied", "", "AWS_ACCESS_KEY_ID"),
    (400, "ExpiredToken", "The provided token has expired.", "aws sso login"),
    (400, "KMS.DisabledException", "The key is disabled.", "KMS key"),
    (405, "MethodNotAllowed", "The method is not allowed.", "versioned"),
    (411, "MissingContentLength", "", "AWS_REQUEST_CHECKSUM_CALCULATION=when_required"),
    (501, "NotImplemented", "A header you provided is not implemented.", "does not know a header"),
    (400, "AuthorizationHeaderMalformed", "expecting 'eu-west-1'", "AWS_REGION"),
    (400, "XMinioStorageFull", "Storage backend has reached its minimum.", "Free some space"),
]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, str, str]]]:
    """What the server that boto3 is pointed at answers to anything."""
    answers: list[tuple[int, str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            status, code, message = answers[0]
            body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

    with local_http(Handler) as url:
        for name, value in S3Server(url, "key", "secret").environ().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("botocore.endpoint.time.sleep", lambda seconds: None)
        yield answers


@pytest.mark.parametrize(("status", "code", "message", "hint"), REFUSALS)
def test_the_servers_sentence_and_a_hint_are_in_the_error(
    answers: list[tuple[int, str, str]], status: int, code: str, message: str, hint: str
) -> None:
    answers.append((status, code, message))
    with pytest.raises(StorageError) as caught:
        open_store("s3://bucket").read("a")
    assert f"the server answered {status} {code}" in caught.value.problem
    assert message.rstrip(".") in caught.value.problem
    assert hint in caught.value.hint
    assert isinstance(caught.value, AccessDenied) == (status == 403 or code == "ExpiredToken")


def test_the_last_word_of_a_server_that_stays_busy_is_in_the_error(
    answers: list[tuple[int, str, str]],
) -> None:
    answers.append((503, "SlowDown", "Please reduce your request rate."))
    with pytest.raises(StoreUnavailable, match="5 times: Please reduce your request rate"):
        open_store("s3://bucket").read("a")


def test_what_a_server_says_is_one_line_of_bounded_length(
    answers: list[tuple[int, str, str]],
) -> None:
    answers.append((400, "Odd", "a\nb " + "x" * 10_000))
    with pytest.raises(StorageError, match=r"400 Odd: a b x{100}") as caught:
        open_store("s3://bucket").read("a")
    assert len(caught.value.problem) < 600


def test_a_server_without_create_only_writes_is_told_from_one_without_checksums(
    answers: list[tuple[int, str, str]],
) -> None:
    answers.append((501, "NotImplemented", "A header you provided is not implemented."))
    with pytest.raises(StorageError, match="If-None-Match") as caught:
        open_store("s3://bucket").create("a", b"x")
    assert "A header you provided is not implemented" in caught.value.problem
    assert "AWS_REQUEST_CHECKSUM_CALCULATION=when_required" in caught.value.hint


def quoted(status: int, code: str, message: str) -> OSError:
    """A refusal as the Delta library words it."""
    return OSError(
        "Generic S3 error: Error performing PUT http://x/b/k in 1ms - Server returned non-2xx status "
        f"code: {status} Any: <Error><Code>{code}</Code><Message>{message}</Message></Error>"
    )


@pytest.mark.parametrize(
    ("status", "code", "message", "hint"), [each for each in REFUSALS if each[0] == 403]
)
def test_the_delta_librarys_refusals_have_the_same_hints(
    status: int, code: str, message: str, hint: str
) -> None:
    found = translate("s3://b/c", quoted(status, code, message))
    assert isinstance(found, AccessDenied)
    assert message in found.problem
    assert hint in found.hint


def test_the_delta_librarys_other_refusals_say_what_to_set() -> None:
    assert "If-None-Match" in str(translate("s3://b/c", quoted(501, "NotImplemented", "A header")))
    other = OSError("Received redirect without LOCATION, this normally indicates a wrong region")
    found = translate("s3://b/c", other)
    assert isinstance(found, CatalogError)
    assert "AWS_REGION" in found.hint
    arrow = OSError("AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 60, SSL")
    assert "AWS_CA_BUNDLE" in translate("s3://b/c", arrow).hint
