"""Azurite, with listings that begin at a name.

The Delta library lists the versions of a table from one of them on (`startFrom`). Azure can do so
since its service version of 2026; Azurite 3.37 ignores it. This server passes on every request
unchanged, and removes from a listing what is before that name. It runs in a separate process, because
the Delta library holds Python's lock while it waits: `python -m tests.azurite_front
http://127.0.0.1:PORT`.
"""

from __future__ import annotations

import http.client
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import unescape

from tests.storage.local_http import local_http

_BLOB = re.compile(r"<Blob>.*?</Blob>", re.DOTALL)
_NAME = re.compile(r"<Name>(.*?)</Name>", re.DOTALL)
_NOT_PASSED_ON = {
    "connection",
    "keep-alive",
    "transfer-encoding",
    "content-length",
    "date",
    "server",
}


def after(listing: str, first: str) -> str:
    """A listing without what lies before a name."""

    def kept(found: re.Match[str]) -> str:
        name = _NAME.search(found[0])
        return found[0] if name is not None and unescape(name[1]) >= first else ""

    return _BLOB.sub(kept, listing)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    behind = ""

    def log_message(self, format: str, *args: object) -> None:
        pass

    def pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        server = http.client.HTTPConnection(self.behind, timeout=60)
        server.request(self.command, self.path, body, dict(self.headers.items()))
        answer = server.getresponse()
        data = answer.read()
        query = parse_qs(urlsplit(self.path).query)
        if "startFrom" in query and answer.status == 200:
            data = after(data.decode(), query["startFrom"][0]).encode()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _NOT_PASSED_ON:
                self.send_header(name, value)
        size = answer.getheader("Content-Length") if self.command == "HEAD" else None
        self.send_header("Content-Length", size or str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        server.close()

    do_GET = pass_on  # noqa: N815 - the names that the server calls
    do_PUT = do_POST = do_HEAD = do_DELETE = pass_on  # noqa: N815


def main(server: str) -> None:
    """Runs until it is killed; its first line is its address."""
    _Handler.behind = server.removeprefix("http://")
    with local_http(_Handler) as address:
        print(address, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1])
