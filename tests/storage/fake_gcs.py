"""A server of a few lines that speaks the part of Google Cloud Storage's XML API that obstore uses.

It keeps what Google promises and what the stores rely on: puts and copies that create only, conditional
reads, ranges, pages of listings in key order, uploads in parts that appear whole. It is not Google's,
and of its JSON API there is nothing.

`python -m tests.storage.fake_gcs` runs one by itself: the Delta library holds Python's lock while it
waits, so its own process cannot answer it.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.storage.local_http import local_http

PAGE = 1000


@dataclass
class Stored:
    data: bytes
    meta: dict[str, str]
    generation: int
    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def etag(self) -> str:
        return f'"{hashlib.md5(self.data).hexdigest()}"'


class FakeGcs:
    """Objects by `bucket/key`; statuses that the next requests of a method are answered with."""

    def __init__(self) -> None:
        self.endpoint = ""
        self.objects: dict[str, Stored] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.answers: dict[str, list[int]] = {}
        # Of the next put the object is stored, and the answer is lost.
        self.loses_next_answer = False
        self.lock = threading.Lock()
        self.count = itertools.count(1)

    def put(self, name: str, data: bytes, meta: dict[str, str], creates: bool) -> Stored | None:
        with self.lock:
            if creates and name in self.objects:
                return None
            self.objects[name] = Stored(data, meta, next(self.count))
            return self.objects[name]


def environ(endpoint: str) -> dict[str, str]:
    """The variables that point obstore and the Delta library at a server; the keys sign nothing."""
    account = {"client_email": "", "private_key": "", "private_key_id": "", "disable_oauth": True}
    return {
        "GOOGLE_BASE_URL": endpoint,
        "GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(account),
        "NO_PROXY": "127.0.0.1",
    }


@contextlib.contextmanager
def fake_gcs() -> Iterator[FakeGcs]:
    fake = FakeGcs()

    class Handler(_Handler):
        server_state = fake

    with local_http(Handler) as fake.endpoint:
        yield fake


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_state: FakeGcs

    def log_message(self, format: str, *args: object) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str) -> None:
        self.answer(status, f"<?xml version='1.0'?><Error><Code>{code}</Code></Error>".encode())

    def asked(self) -> tuple[str, dict[str, str], bytes] | None:
        """Name, query and body; None if the request was answered as the test wants it."""
        parts = urlsplit(self.path)
        query = {k: v[0] for k, v in parse_qs(parts.query, keep_blank_values=True).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        waiting = self.server_state.answers.get(self.command)
        if waiting:
            self.refuse(waiting.pop(0), "Refused")
            return None
        return unquote(parts.path).lstrip("/"), query, body

    def do_PUT(self) -> None:
        if (asked := self.asked()) is None:
            return
        name, query, body = asked
        fake = self.server_state
        if "partNumber" in query:
            if query["uploadId"] not in fake.uploads:  # ended meanwhile
                self.refuse(404, "NoSuchUpload")
                return
            fake.uploads[query["uploadId"]][int(query["partNumber"])] = body
            self.answer(200, headers={"ETag": f'"{hashlib.md5(body).hexdigest()}"'})
            return
        meta = {
            k.lower(): v for k, v in self.headers.items() if k.lower().startswith("x-goog-meta-")
        }
        if source := self.headers.get("x-goog-copy-source"):
            found = fake.objects.get(unquote(source).lstrip("/"))
            if found is None:
                self.refuse(404, "NoSuchKey")
                return
            body, meta = found.data, found.meta
        creates = self.headers.get("x-goog-if-generation-match") == "0"
        stored = fake.put(name, body, meta, creates)
        if fake.loses_next_answer:
            fake.loses_next_answer = False
            self.refuse(503, "ServiceUnavailable")
        elif stored is None:
            self.refuse(412, "PreconditionFailed")
        else:
            more = {"ETag": stored.etag, "x-goog-generation": str(stored.generation)}
            self.answer(200, b"<CopyObjectResult/>" if source else b"", more)

    def do_POST(self) -> None:
        if (asked := self.asked()) is None:
            return
        name, query, _ = asked
        fake = self.server_state
        if "uploads" in query:
            upload = f"upload{next(fake.count)}"
            fake.uploads[upload] = {}
            text = f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId>"
            self.answer(200, f"{text}</InitiateMultipartUploadResult>".encode())
            return
        parts = fake.uploads.pop(query["uploadId"])
        data = b"".join(parts[number] for number in sorted(parts))
        stored = fake.put(name, data, {}, creates=False)
        assert stored is not None
        text = f"<CompleteMultipartUploadResult><ETag>{escape(stored.etag)}</ETag>"
        headers = {"x-goog-generation": str(stored.generation)}
        self.answer(200, f"{text}</CompleteMultipartUploadResult>".encode(), headers)

    def do_GET(self) -> None:
        if (asked := self.asked()) is None:
            return
        name, query, _ = asked
        if "list-type" in query:
            self.listing(name, query)
            return
        found = self.server_state.objects.get(name)
        if found is None:
            self.refuse(404, "NoSuchKey")
            return
        if (wanted := self.headers.get("If-Match")) and wanted != found.etag:
            self.refuse(412, "PreconditionFailed")
            return
        headers = {
            "ETag": found.etag,
            "Last-Modified": format_datetime(found.at, usegmt=True),
            "x-goog-generation": str(found.generation),
            **found.meta,
        }
        asked_for = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
        if asked_for is None:
            self.answer(200, found.data, headers)
            return
        start, end = int(asked_for[1]), min(int(asked_for[2]), len(found.data) - 1)
        if start >= len(found.data):
            self.refuse(416, "InvalidRange")
            return
        headers["Content-Range"] = f"bytes {start}-{end}/{len(found.data)}"
        self.answer(206, found.data[start : end + 1], headers)

    do_HEAD = do_GET  # noqa: N815

    def listing(self, bucket: str, query: dict[str, Any]) -> None:
        above = f"{bucket}/"
        after = query.get("continuation-token") or query.get("start-after", "")
        with self.server_state.lock:
            names = sorted(
                name[len(above) :] for name in self.server_state.objects if name.startswith(above)
            )
        keys = [k for k in names if k.startswith(query.get("prefix", "")) and k > after]
        page, more = keys[:PAGE], len(keys) > PAGE
        entries = []
        for key in page:
            each = self.server_state.objects[above + key]
            entries.append(
                f"<Contents><Key>{escape(key)}</Key><LastModified>"
                f"{each.at.strftime('%Y-%m-%dT%H:%M:%S.%fZ')}</LastModified>"
                f"<ETag>{escape(each.etag)}</ETag><Size>{len(each.data)}</Size></Contents>"
            )
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        text = f"<ListBucketResult>{token}{''.join(entries)}</ListBucketResult>"
        self.answer(200, text.encode())

    def do_DELETE(self) -> None:
        if (asked := self.asked()) is None:
            return
        name, query, _ = asked
        fake = self.server_state
        if "uploadId" in query:
            fake.uploads.pop(query["uploadId"], None)
            self.answer(204)
            return
        with fake.lock:
            found = fake.objects.pop(name, None)
        if found is None:
            self.refuse(404, "NoSuchKey")
        else:
            self.answer(204)


def main() -> None:
    """Runs a server until it is killed; its first line is its address."""
    with fake_gcs() as fake:
        print(fake.endpoint, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
