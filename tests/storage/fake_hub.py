"""A Hugging Face Hub of a few lines: repository info, refs, tree, and download with ranges.

`fake_hub_writes` has the endpoints that write.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from tests.storage.fake_hub_writes import WritingHandler
from tests.storage.local_http import local_http

TREE_PAGE = 3


@dataclass
class FakeRepo:
    """One repository: its files by commit, its branches and tags, and who may see it."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    messages: list[tuple[str, str]] = field(default_factory=list)

    def commit(self, files: dict[str, bytes], ref: str = "main") -> str:
        """Adds a commit, points `ref` at it, and returns its hash."""
        named = json.dumps({k: v.hex() for k, v in files.items()}) + str(len(self.commits))
        name = hashlib.sha1(named.encode()).hexdigest()
        self.commits[name] = files
        self.refs[ref] = name
        return name

    def files(self, ref: str = "main") -> dict[str, bytes]:
        """The files at a branch."""
        return self.commits[self.refs[ref]]


class FakeHub:
    """Repositories by name, `org/zoo` being there from the start, and what was asked of them.

    Attributes:
        token: The one token there is; empty where none is looked at.
        gated: Whether nothing may be read before terms are accepted.
        statuses: Answers to the next requests that read, in place of the real ones.
        write_statuses: The same for requests that write.
        requests: Method and path of each request, in order.
        ignore_ranges: Whether to send whole files whatever range is asked for.
        read_only: Whether the token may only read.
        all_public: Whether repositories are made public whatever was asked.
        lose_answers: How many commits are made and not answered.
        echo: Whether errors repeat the request's credentials, as careless proxies do.
        before_commit: Called before each commit, for what others do meanwhile.
        cas: A directory for hf_xet to keep large files in; None for LFS.
        collections: Kind and id of what each collection lists, by its slug.
        links: Number in the signed links that are given; those with another have expired.
        large: Uploaded large files by sha256.
        uploads: sha256 of each large file that came, in order.
        created: What each request for a new repository said.
        waits: Seconds slept between tries, where `used_hub` is used.
        answer_headers: Headers of answers from `statuses` and `write_statuses`.
    """

    def __init__(self) -> None:
        self.endpoint_url = ""
        self.repos = {"org/zoo": FakeRepo()}
        self.token = ""
        self.gated = False
        self.statuses: list[int] = []
        self.write_statuses: list[int] = []
        self.requests: list[str] = []
        self.ignore_ranges = False
        self.read_only = False
        self.all_public = False
        self.lose_answers = 0
        self.echo = False
        self.before_commit: Callable[[], object] = lambda: None
        self.cas: Path | None = None
        self.collections: dict[str, list[tuple[str, str]]] = {}
        self.links = 0
        self.large: dict[str, bytes] = {}
        self.uploads: list[str] = []
        self.created: list[dict[str, object]] = []
        self.waits: list[float] = []
        self.answer_headers: dict[str, str] = {}

    @property
    def refs(self) -> dict[str, str]:
        """Branches of `org/zoo`."""
        return self.repos["org/zoo"].refs

    def commit(self, files: dict[str, bytes], ref: str = "main") -> str:
        """Adds a commit to `org/zoo`."""
        return self.repos["org/zoo"].commit(files, ref)

    def written(self) -> list[str]:
        """The requests that write."""
        return [r for r in self.requests if r.split()[0] not in ("GET", "HEAD")]


@contextlib.contextmanager
def used_hub(monkeypatch: pytest.MonkeyPatch, *, token: str = "") -> Iterator[FakeHub]:
    """A fake Hub that huggingface_hub talks to in the block, by LFS, and with this token or none."""
    with fake_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint_url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        # The one that whoever runs the tests is logged in with.
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "/nowhere/token")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        # Its waits between tries, and ours, are not what is tested.
        monkeypatch.setattr("time.sleep", hub.waits.append)
        hub.token = token
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        yield hub


@contextlib.contextmanager
def fake_hub() -> Iterator[FakeHub]:
    hub = FakeHub()

    class Handler(WritingHandler, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            path = unquote(url.path)
            hub.requests.append(f"{self.command} {self.path}")
            if hub.statuses:
                return self.answer(hub.statuses.pop(0), **hub.answer_headers)
            if match := re.fullmatch(r"/cdn/(\d+)/([\w.-]+/[\w.-]+)/(\w+)/(.*)", path):
                # Signed links carry their own permission, for some time.
                if int(match[1]) != hub.links:
                    return self.answer(403)
                return self.file(hub.repos[match[2]].commits[match[3]][match[4]])
            if not self.known_token():
                return None
            if path.startswith("/api/collections/"):
                return self.collection(path.removeprefix("/api/collections/"))
            match = re.fullmatch(r"(?:/api/models)?/([\w.-]+/[\w.-]+?)(?:/(.*))?", path)
            repo = self.visible(match[1]) if match else None
            if match is None or repo is None:
                return self.answer(self.missing(), X_Error_Code="RepoNotFound")
            if hub.gated:
                return self.answer(403, X_Error_Code="GatedRepo")
            name, rest = match[1], match[2] or ""
            if not path.startswith("/api/"):
                found = re.fullmatch(r"resolve/(\w+)/(.*)", rest)
                return self.resolve(name, found[1], found[2]) if found else self.answer(404)
            if rest == "" or rest.startswith("revision/"):
                revision = rest.removeprefix("revision/") or "main"
                return self.info(repo, name, revision, blobs="blobs" in parse_qs(url.query))
            if rest == "refs":
                return self.list_refs(repo)
            if rest.startswith("xet-write-token/"):
                return self.xet_token()
            if found := re.fullmatch(r"tree/(\w+)(?:/(.*))?", rest):
                return self.tree(repo, found[1], found[2] or "", parse_qs(url.query))
            return self.answer(404)

        def do_HEAD(self) -> None:
            self.do_GET()

        def info(self, repo: FakeRepo, name: str, revision: str, *, blobs: bool) -> None:
            commit = repo.refs.get(revision, revision)
            if commit not in repo.commits:
                return self.answer(404, X_Error_Code="RevisionNotFound")
            known = {"_id": "1", "id": name, "modelId": name, "sha": commit}
            files = repo.commits[commit]
            siblings = [_sibling(path, files[path], blobs) for path in sorted(files)]
            return self.json({**known, "private": repo.private, "tags": [], "siblings": siblings})

        def collection(self, slug: str) -> None:
            if slug not in hub.collections:
                return self.answer(404, X_Error_Message="Collection not found")
            items = [
                {"_id": str(at), "id": name, "type": kind, "position": at, "repoType": kind}
                for at, (kind, name) in enumerate(hub.collections[slug])
            ]
            now = "2026-11-24T10:00:00.000Z"
            known = {"slug": slug, "title": "A zoo", "owner": {"name": slug.split("/")[0]}}
            more = {"lastUpdated": now, "position": 0, "private": False, "theme": "blue"}
            return self.json({**known, **more, "upvotes": 0, "items": items})

        def list_refs(self, repo: FakeRepo) -> None:
            def listed(kind: str, refs: dict[str, str]) -> list[dict[str, str]]:
                return [
                    {"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": c}
                    for n, c in refs.items()
                ]

            branches, tags = listed("heads", repo.refs), listed("tags", repo.tags)
            self.json({"branches": branches, "converts": [], "tags": tags})

        def tree(
            self, repo: FakeRepo, commit: str, folder: str, query: dict[str, list[str]]
        ) -> None:
            below = f"{folder}/" if folder else ""
            paths = sorted(p for p in repo.commits[commit] if p.startswith(below))
            if not paths:
                return self.answer(404, X_Error_Code="EntryNotFound")
            entries = [_entry(path, repo.commits[commit][path]) for path in paths]
            entries.insert(0, {"type": "directory", "oid": "0" * 40, "size": 0, "path": "some"})
            start = int(query.get("cursor", ["0"])[0])
            more = f"{hub.endpoint_url}{urlsplit(self.path).path}?recursive=True"
            link = f'<{more}&cursor={start + TREE_PAGE}>; rel="next"'
            last = start + TREE_PAGE >= len(entries)
            page = entries[start : start + TREE_PAGE]
            return self.json(page, **({} if last else {"Link": link}))

        def resolve(self, name: str, commit: str, path: str) -> None:
            data = hub.repos[name].commits[commit].get(path)
            if data is None:
                return self.answer(404, X_Error_Code="EntryNotFound")
            if is_large(path, data):
                return self.answer(
                    302,
                    Location=f"{hub.endpoint_url}/cdn/{hub.links}/{name}/{commit}/{path}",
                    X_Repo_Commit=commit,
                    X_Linked_Etag=f'"{hashlib.sha256(data).hexdigest()}"',
                    ETag='"of the redirect"',
                )
            oid = str(_entry(path, data)["oid"])
            return self.file(data, X_Repo_Commit=commit, ETag=f'"{oid}"')

        def file(self, data: bytes, **headers: str) -> None:
            asked = self.headers["Range"]
            if asked is None or hub.ignore_ranges:
                return self.answer(200, data, **headers)
            start, end = (int(x) for x in asked.removeprefix("bytes=").split("-"))
            part = data[start : end + 1]
            if not part:
                return self.answer(416)
            last = start + len(part) - 1
            placed = f"bytes {start}-{last}/{len(data)}"
            return self.answer(206, part, Content_Range=placed, **headers)

    Handler.hub = hub
    with local_http(Handler) as hub.endpoint_url:
        yield hub


def is_large(path: str, data: bytes) -> bool:
    """Whether a file is kept as a large one: with a sha256, and behind a redirect."""
    return path.endswith(".safetensors") and len(data) > 0


def oid_of(data: bytes) -> str:
    """The mark of a file that is not a large one: git's hash of it."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _entry(path: str, data: bytes) -> dict[str, object]:
    entry: dict[str, object] = {
        "type": "file",
        "oid": oid_of(data),
        "size": len(data),
        "path": path,
    }
    if is_large(path, data):
        sha = hashlib.sha256(data).hexdigest()
        entry["lfs"] = {"oid": sha, "size": len(data), "pointerSize": 130}
    return entry


def _sibling(path: str, data: bytes, blobs: bool) -> dict[str, object]:
    """A file as the answer about a repository lists it; with its hashes if they are asked for."""
    if not blobs:
        return {"rfilename": path}
    entry = _entry(path, data)
    sibling = {"rfilename": path, "size": entry["size"], "blobId": entry["oid"]}
    if is_large(path, data):
        sha = hashlib.sha256(data).hexdigest()
        sibling["lfs"] = {"sha256": sha, "size": len(data), "pointerSize": 130}
    return sibling
