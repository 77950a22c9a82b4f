"""An S3 server of a few lines, for answers a real one does not give on command."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

from tests.storage.local_http import local_http


class FakeS3:
    """Objects by path, and what the next PUTs are answered.

    A PUT takes the next status of `put_answers`; with none left it writes, whatever
    `If-None-Match` says, as several servers do that claim to speak S3.
    """

    def __init__(self) -> None:
        self.endpoint_url = ""
        self.objects: dict[str, bytes] = {}
        self.put_answers: list[tuple[int, str]] = []
        self.puts: list[str | None] = []
        self.ignore_ranges = False


@contextlib.contextmanager
def fake_s3() -> Iterator[FakeS3]:
    fake = FakeS3()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in {"ETag": '"tag"', **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            fake.puts.append(self.headers["If-None-Match"])
            if fake.put_answers:
                status, code = fake.put_answers.pop(0)
                self.answer(status, f"<Error><Code>{code}</Code></Error>".encode())
            else:
                fake.objects[self.path.split("?")[0]] = body
                self.answer(200)

        def do_GET(self) -> None:
            body = fake.objects.get(self.path.split("?")[0])
            if body is None:
                self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            elif "Range" in self.headers and not fake.ignore_ranges:
                start, end = self.headers["Range"].removeprefix("bytes=").split("-")
                part = body[int(start) : int(end) + 1]
                last = int(start) + len(part) - 1
                self.answer(206, part, Content_Range=f"bytes {start}-{last}/{len(body)}")
            else:
                self.answer(200, body)

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_DELETE(self) -> None:
            fake.objects.pop(self.path.split("?")[0], None)
            self.answer(204)

    with local_http(Handler) as fake.endpoint_url:
        yield fake
