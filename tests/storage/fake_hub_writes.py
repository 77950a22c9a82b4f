"""What the fake Hub does with requests that write: repositories, branches, uploads, commits."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import unquote, urlsplit

import yaml

if TYPE_CHECKING:
    from tests.storage.fake_hub import FakeHub, FakeRepo

SIGNATURE = "X-Amz-Signature=1234"
# Some of the identifiers the Hub knows; it turns down a card that names another.
LICENSES = {
    "apache-2.0",
    "mit",
    "cc-by-nc-4.0",
    "cc-by-4.0",
    "llama3.1",
    "gemma",
    "other",
    "unknown",
}
MODEL_ID = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*", re.ASCII)
RELATIONS = {"adapter", "merge", "quantized", "finetune"}


class WritingHandler(BaseHTTPRequestHandler):
    """Answers POST and PUT; what reads is added by a subclass."""

    hub: ClassVar[FakeHub]
    protocol_version = "HTTP/1.1"
    # Head and body are sent apart, and the second would wait 40 ms for the first to be acknowledged.
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", /, **headers: str) -> None:
        if status >= 400 and self.hub.echo:
            headers["X_Error_Message"] = f"refused: {self.headers['Authorization']}"
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def json(self, value: object, status: int = 200, /, **headers: str) -> None:
        body = json.dumps(value).encode()
        self.answer(status, body, Content_Type="application/json", **headers)

    def known_token(self) -> bool:
        """Whether the token sent, if any, is the one there is; answers where it is not."""
        sent, known = self.headers["Authorization"], self.hub.token
        if not known or sent in (None, f"Bearer {known}"):
            return True
        self.answer(401, X_Error_Message="Invalid credentials in Authorization header")
        return False

    def visible(self, name: str) -> FakeRepo | None:
        """A repository, if whoever asks may know of it."""
        repo = self.hub.repos.get(name)
        if repo and repo.private and self.headers["Authorization"] is None and self.hub.token:
            return None
        return repo

    def missing(self) -> int:
        """The Hub tells those without a token nothing about what is not there."""
        return 404 if self.headers["Authorization"] else 401

    def xet_token(self) -> None:
        """Where hf_xet is to put large files: a directory takes the place of a server."""
        where = f"local://{self.hub.cas}"
        until = int(time.time()) + 3600
        headers = {"X_Xet_Cas_Url": where, "X_Xet_Access_Token": "xet"}
        said = {"casUrl": where, "exp": until, "accessToken": "xet"}
        self.json(said, **headers, X_Xet_Token_Expiration=str(until))

    def do_PUT(self) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")
        data = self.body()
        # The link is signed, and goes to a server that must not see the token.
        assert self.headers["Authorization"] is None
        assert urlsplit(self.path).query == SIGNATURE
        if self.hub.write_statuses and (status := self.hub.write_statuses.pop(0)):
            return self.answer(status)
        oid = urlsplit(self.path).path.removeprefix("/upload/")
        if hashlib.sha256(data).hexdigest() != oid:
            return self.answer(400)
        self.hub.large[oid] = data
        self.hub.uploads.append(oid)
        return self.answer(200)

    def do_POST(self) -> None:
        hub = self.hub
        hub.requests.append(f"{self.command} {self.path}")
        data, path = self.body(), unquote(urlsplit(self.path).path)
        if hub.write_statuses and (status := hub.write_statuses.pop(0)):
            return self.answer(status, **hub.answer_headers)
        if not self.known_token():
            return None
        if self.headers["Authorization"] is None and hub.token:
            return self.answer(401, X_Error_Message="Invalid username or password.")
        if path == "/api/validate-yaml":
            errors = card_errors(json.loads(data)["content"])
            said = {"errors": [{"message": e} for e in errors], "warnings": []}
            return self.json(said, 400 if errors else 200)
        if hub.read_only:
            return self.answer(403, X_Error_Message="You don't have the rights to write here")
        if path == "/api/repos/create":
            return self.create(json.loads(data))
        if match := re.fullmatch(r"/([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", path):
            return self.lfs_batch(match[1], json.loads(data))
        if match := re.fullmatch(r"/([\w.-]+/[\w.-]+)\.git/info/lfs/verify", path):
            asked = json.loads(data)
            same = len(hub.large[asked["oid"]]) == asked["size"]
            return self.answer(200 if same else 400)
        match = re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/(preupload|commit|branch)/(.+)", path)
        repo = self.visible(match[1]) if match else None
        if match is None or repo is None:
            return self.answer(404, X_Error_Code="RepoNotFound")
        if match[2] == "branch":
            return self.branch(repo, match[3], json.loads(data))
        if match[3] not in repo.refs:
            return self.answer(404, X_Error_Code="RevisionNotFound")
        if match[2] == "preupload":
            return self.preupload(repo, match[3], json.loads(data))
        return self.commit(repo, match[1], match[3], data)

    def body(self) -> bytes:
        """What the request carries, of known length or in chunks."""
        if self.headers["Transfer-Encoding"] != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"] or 0))
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def create(self, asked: dict[str, Any]) -> None:
        from tests.storage.fake_hub import FakeRepo

        name = f"{asked['organization']}/{asked['name']}"
        self.hub.created.append(asked)
        url = f"{self.hub.endpoint_url}/{name}"
        if name in self.hub.repos:
            return self.json({"error": "You already created this model repo", "url": url}, 409)
        private = asked.get("visibility") == "private" or asked.get("private") is True
        repo = self.hub.repos[name] = FakeRepo(private=private and not self.hub.all_public)
        repo.commit({".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})
        return self.json({"url": url, "name": name})

    def branch(self, repo: FakeRepo, name: str, asked: dict[str, Any]) -> None:
        if name in repo.refs:
            return self.json({"error": "Reference already exists"}, 409)
        repo.refs[name] = asked["startingPoint"]
        return self.answer(200)

    def preupload(self, repo: FakeRepo, revision: str, asked: dict[str, Any]) -> None:
        from tests.storage.fake_hub import is_large

        told = []
        for file in asked["files"]:
            path, now = file["path"], repo.files(revision).get(file["path"])
            large = is_large(path, b"x" * file["size"])
            oid = None
            if now is not None:
                blob = hashlib.sha1(b"blob %d\0" % len(now) + now).hexdigest()
                oid = hashlib.sha256(now).hexdigest() if large else blob
            mode = "lfs" if large else "regular"
            told.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.json({"files": told})

    def lfs_batch(self, name: str, asked: dict[str, Any]) -> None:
        at, objects = self.hub.endpoint_url, []
        for entry in asked["objects"]:
            told = {"oid": entry["oid"], "size": entry["size"]}
            if entry["oid"] not in self.hub.large:
                upload = {"href": f"{at}/upload/{entry['oid']}?{SIGNATURE}", "header": {}}
                verify = {"href": f"{at}/{name}.git/info/lfs/verify"}
                told["actions"] = {"upload": upload, "verify": verify}
            objects.append(told)
        self.json({"transfer": "basic", "objects": objects})

    def commit(self, repo: FakeRepo, name: str, revision: str, data: bytes) -> None:
        hub = self.hub
        hub.before_commit()
        lines = [json.loads(line) for line in data.splitlines()]
        header = lines[0]["value"]
        if header.get("parentCommit") not in (None, repo.refs[revision]):
            message = "A commit has happened since. Please refresh and try again."
            return self.json({"error": message}, 412)
        files = dict(repo.files(revision))
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile" and hub.cas is not None:
                files[value["path"]] = f"in xet: {value['oid']}".encode()
            elif line["key"] == "lfsFile":
                files[value["path"]] = hub.large[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
            else:
                return self.json({"error": f"unknown operation {line['key']}"}, 400)
        commit = repo.commit(files, revision)
        repo.messages.append((header["summary"], header["description"]))
        if hub.lose_answers:
            hub.lose_answers -= 1
            self.close_connection = True
            return None
        url = f"{hub.endpoint_url}/{name}/commit/{commit}"
        return self.json({"success": True, "commitOid": commit, "commitUrl": url})


def card_errors(card: str) -> list[str]:
    """What the Hub finds wrong with a model card's front matter."""
    match = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    fields = yaml.safe_load(match[1]) if match else {}
    errors = []
    if not MODEL_ID.fullmatch(fields.get("base_model", "a")):
        errors.append('"base_model" must be the id of a model')
    if fields.get("base_model_relation", "adapter") not in RELATIONS:
        errors.append('"base_model_relation" is not one of the known ones')
    named = fields.get("license", [])
    if not set(named if isinstance(named, list) else [named]) <= LICENSES:
        errors.append('"license" must be one of the known ones')
    if not all(isinstance(tag, str) for tag in fields.get("tags", [])):
        errors.append('"tags" must be texts')
    return errors
