"""What a storage URI means. Pure, except for the working and home directory of a local path."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from lego_ray.errors import UnsupportedUri, redacted

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
# Revisions the Hub itself writes with slashes; any other slash in one is given as %2F.
_HUB_REVISION = re.compile(r"(refs/pr/\d+|refs/convert/[\w.-]+|[^/]+)(?:/(.*))?", re.DOTALL)
_HUB_REPO = re.compile(r"[\w.-]+/[\w.-]+")
_FORMS = "Give a path, file:///path, s3://bucket/prefix, or hf://owner/name[@revision][/subfolder]."


@dataclass(frozen=True, slots=True)
class FileUri:
    """A local directory; written as its plain absolute path, which every other tool takes."""

    path: str

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True)
class S3Uri:
    """A bucket, or a prefix in one, without slashes at its ends."""

    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}" if self.prefix else f"s3://{self.bucket}"


@dataclass(frozen=True, slots=True)
class HubUri:
    """A model repository on the Hugging Face Hub, or a folder of one.

    Attributes:
        repo_id: `owner/name`.
        revision: Branch, tag or commit as asked for; empty for the default branch.
        subfolder: Path in the repository, without slashes at its ends; may be empty.
    """

    repo_id: str
    revision: str
    subfolder: str

    def __str__(self) -> str:
        text = f"hf://{self.repo_id}"
        if self.revision:
            special = self.revision.startswith(("refs/pr/", "refs/convert/"))
            text += "@" + (self.revision if special else quote(self.revision, safe=""))
        return f"{text}/{self.subfolder}" if self.subfolder else text


def parse_uri(uri: str | os.PathLike[str]) -> FileUri | S3Uri | HubUri:
    """Reads a URI, or a path.

    Args:
        uri: A path, `file:///path`, `s3://bucket/prefix`, or `hf://owner/name[@revision][/folder]`.

    Returns:
        Its parts. Equal places give equal values, except for links and default branches.

    Raises:
        UnsupportedUri: If the scheme or the form is another.
    """
    text = os.fspath(uri)
    if not text or "\0" in text:
        raise UnsupportedUri(repr(text), "this is no URI", _FORMS)
    shown = text.encode("utf-8", "backslashreplace").decode()
    if shown != text:
        raise UnsupportedUri(shown, "its name is not UTF-8", "Rename it, or go by a link to it.")
    match = _SCHEME.fullmatch(text)
    if match is None:
        return _parse_path(text)
    if redacted(text) != text:
        raise UnsupportedUri(
            text,
            "it has credentials in it, which would end up in catalogs and model cards",
            "Leave them out: they are taken from the environment, or from AWS's configuration.",
        )
    scheme, rest = match.group(1).lower(), match.group(2)
    if scheme == "file":
        host, slash, path = rest.partition("/")
        if host not in ("", "localhost") or not slash:
            raise UnsupportedUri(text, "a file URI names a host, or no absolute path", _FORMS)
        return _parse_path("/" + unquote(path))
    if scheme == "s3":
        bucket, _, prefix = rest.partition("/")
        if not bucket:
            raise UnsupportedUri(text, "there is no bucket in it", _FORMS)
        return S3Uri(bucket, prefix.strip("/"))
    if scheme == "hf":
        return _parse_hub(text, rest)
    raise UnsupportedUri(text, f"the scheme {scheme}:// is not supported", _FORMS)


def check_plain(endpoint: str) -> str:
    """A server's address as it is, if there are no credentials in it.

    Libraries quote it in their errors, which end up in logs.

    Raises:
        UnsupportedUri: Otherwise.
    """
    if redacted(endpoint) != endpoint:
        raise UnsupportedUri(
            endpoint,
            "the address of a server has credentials in it",
            "Give them in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or in HF_TOKEN.",
        )
    return endpoint


def _parse_path(text: str) -> FileUri:
    # Lexical, so that a path through a symbolic link stays the one the user gave.
    try:
        path = os.path.normpath(Path(text).expanduser().absolute())
    except (RuntimeError, OSError) as error:  # of a user there is not, or from nowhere
        raise UnsupportedUri(text, f"it has no absolute path ({error})", _FORMS) from None
    return FileUri("/" + path.lstrip("/"))


def _parse_hub(text: str, rest: str) -> HubUri:
    rest = rest.strip("/").removeprefix("models/")
    repo_id, at, tail = rest.partition("@")
    revision = ""
    if at and repo_id.count("/") == 1:
        match = _HUB_REVISION.fullmatch(tail)
        if match is None:
            raise UnsupportedUri(text, "the revision after '@' is empty", _FORMS)
        revision, subfolder = unquote(match.group(1)), match.group(2) or ""
    else:
        # No revision, or an '@' further down, which is part of a folder's name.
        owner, _, after = rest.partition("/")
        name, _, subfolder = after.partition("/")
        repo_id = f"{owner}/{name}"
    if not _HUB_REPO.fullmatch(repo_id):
        raise UnsupportedUri(text, "it names no repository as owner/name", _FORMS)
    if repo_id.split("/")[0] in ("datasets", "spaces", "buckets", "kernels"):
        raise UnsupportedUri(text, "only model repositories hold adapters", _FORMS)
    return HubUri(repo_id, revision, subfolder.strip("/"))


def normalize_uri(uri: str | os.PathLike[str]) -> str:
    """Writes a URI the one way lego-ray records it: no trailing slash, local paths absolute.

    Args:
        uri: As `parse_uri` takes it.

    Returns:
        The same place; `open_store` of either is the same store.

    Raises:
        UnsupportedUri: If the scheme or the form is another.
    """
    return str(parse_uri(uri))


def join(uri: str | os.PathLike[str], key: str) -> str:
    """Names what lies at a key below a URI.

    Args:
        uri: As `parse_uri` takes it.
        key: Path below it, with `/` between parts; empty for the place itself.

    Returns:
        A normalized URI.

    Raises:
        UnsupportedUri: If the scheme or the form of `uri` is another.
    """
    base = normalize_uri(uri)
    key = key.strip("/")
    return f"{base.rstrip('/')}/{key}" if key else base
