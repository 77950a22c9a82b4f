"""A Hugging Face Hub of a few lines: repository info, tree and file download with ranges."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, unquote, urlsplit

from tests.storage.local_http import local_http

LARGE = 1000
"""Bytes from which a file is kept as a large one: with a sha256, and behind a redirect."""

TREE_PAGE = 3


class FakeHub:
    """One repository, `org/zoo`: its files by commit, its branches, and who may read it."""

    def __init__(self) -> None:
        self.endpoint_url = ""
        self.commits: dict[str, dict[str, bytes]] = {}
        self.refs: dict[str, str] = {}
        self.token = ""
        self.gated = False
        self.statuses: list[int] = []
        self.requests: list[str] = []
        self.ignore_ranges = False

    def commit(self, files: dict[str, bytes], ref: str = "main") -> str:
        """Adds a commit, points `ref` at it, and returns its hash."""
        named = json.dumps({k: v.hex() for k, v in files.items()}) + str(len(self.commits))
        name = hashlib.sha1(named.encode()).hexdigest()
        self.commits[name] = files
        self.refs[ref] = name
        return name


@contextlib.contextmanager
def fake_hub() -> Iterator[FakeHub]:
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            path = unquote(url.path)
            hub.requests.append(f"{self.command} {self.path}")
            if hub.statuses:
                return self.answer(hub.statuses.pop(0))
            if match := re.fullmatch(r"/cdn/(\w+)/(.*)", path):
                # Signed links carry their own permission; the token must not reach them.
                return self.file(hub.commits[match[1]][match[2]])
            if hub.token and self.headers["Authorization"] != f"Bearer {hub.token}":
                return self.answer(401, X_Error_Code="RepoNotFound")
            if hub.gated:
                return self.answer(403, X_Error_Code="GatedRepo")
            if match := re.fullmatch(r"/api/models/org/zoo(?:/revision/(.*))?", path):
                return self.info(match[1] or "main")
            if match := re.fullmatch(r"/api/models/org/zoo/tree/(\w+)(?:/(.*))?", path):
                return self.tree(match[1], match[2] or "", parse_qs(url.query))
            if match := re.fullmatch(r"/org/zoo/resolve/(\w+)/(.*)", path):
                return self.resolve(match[1], match[2])
            return self.answer(404, X_Error_Code="RepoNotFound")

        def do_HEAD(self) -> None:
            self.do_GET()

        def info(self, revision: str) -> None:
            commit = hub.refs.get(revision, revision)
            if commit not in hub.commits:
                return self.answer(404, X_Error_Code="RevisionNotFound")
            known = {"_id": "1", "id": "org/zoo", "modelId": "org/zoo", "sha": commit}
            return self.json({**known, "private": False, "tags": [], "siblings": []})

        def tree(self, commit: str, folder: str, query: dict[str, list[str]]) -> None:
            below = f"{folder}/" if folder else ""
            paths = sorted(p for p in hub.commits[commit] if p.startswith(below))
            if not paths:
                return self.answer(404, X_Error_Code="EntryNotFound")
            entries = [_entry(path, hub.commits[commit][path]) for path in paths]
            entries.insert(0, {"type": "directory", "oid": "0" * 40, "size": 0, "path": "some"})
            start = int(query.get("cursor", ["0"])[0])
            more = f"{hub.endpoint_url}{urlsplit(self.path).path}?recursive=True"
            link = f'<{more}&cursor={start + TREE_PAGE}>; rel="next"'
            last = start + TREE_PAGE >= len(entries)
            page = entries[start : start + TREE_PAGE]
            return self.json(page, **({} if last else {"Link": link}))

        def resolve(self, commit: str, path: str) -> None:
            data = hub.commits[commit].get(path)
            if data is None:
                return self.answer(404, X_Error_Code="EntryNotFound")
            if len(data) >= LARGE:
                return self.answer(302, Location=f"{hub.endpoint_url}/cdn/{commit}/{path}")
            return self.file(data)

        def file(self, data: bytes) -> None:
            asked = self.headers["Range"]
            if asked is None or hub.ignore_ranges:
                return self.answer(200, data)
            start, end = (int(x) for x in asked.removeprefix("bytes=").split("-"))
            part = data[start : end + 1]
            if not part:
                return self.answer(416)
            last = start + len(part) - 1
            return self.answer(206, part, Content_Range=f"bytes {start}-{last}/{len(data)}")

        def json(self, value: object, **headers: str) -> None:
            self.answer(200, json.dumps(value).encode(), Content_Type="application/json", **headers)

    with local_http(Handler) as hub.endpoint_url:
        yield hub


def _entry(path: str, data: bytes) -> dict[str, object]:
    oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    entry: dict[str, object] = {"type": "file", "oid": oid, "size": len(data), "path": path}
    if len(data) >= LARGE:
        sha = hashlib.sha256(data).hexdigest()
        entry["lfs"] = {"oid": sha, "size": len(data), "pointerSize": 130}
    return entry
