"""URIs and paths, read once into places.

Pure, except for the working and home directory of a local path.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from lego_ray.errors import UnsupportedUri, redacted
from lego_ray.storage.meant import check_slashes, on_s3
from lego_ray.storage.places import (
    AzPlace,
    FilePlace,
    GsPlace,
    HubPlace,
    Place,
    S3Place,
    WebPlace,
)

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
# Sites that may be read without encryption.
_THIS_MACHINE = ("localhost", "127.0.0.1")
# Revisions the Hub itself writes with slashes; any other slash in one is given as %2F.
_HUB_REVISION = re.compile(r"(refs/pr/\d+|refs/convert/[\w.-]+|[^/]+)(?:/(.*))?", re.DOTALL)
_HUB_REPO = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_COLLECTION = re.compile(
    r"(?:hf:/|https?://(?:www\.)?(?:huggingface\.co|hf\.co))/collections(?:/(.*))?",
    re.DOTALL | re.IGNORECASE,
)
_HUB_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
# Of the page of a folder or a file, between the repository and the revision.
_HUB_VIEWS = ("tree", "blob", "resolve", "raw")
# What other programs call a scheme.
_OTHER_NAMES = {"s3a": "s3", "s3n": "s3", "gcs": "gs", "azure": "az", "http": "https"}


def parse_uri(uri: str | os.PathLike[str]) -> Place:
    """Reads a URI, or a path, into a place.

    Whoever takes a URI from the user, or out of a file, does this once; what is called with it takes the
    place.

    Args:
        uri: A path, `file:///path`, `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`,
            `https://host/file`, or `hf://owner/name[@revision][/folder]`.

    Returns:
        The place.

    Raises:
        UnsupportedUri: If the scheme or the form is another.
    """
    text = os.fspath(uri)
    if not text or "\0" in text:
        raise UnsupportedUri(repr(text), "this is not a URI", forms())
    shown = text.encode("utf-8", "backslashreplace").decode()
    if shown != text:
        raise UnsupportedUri(shown, "its name is not UTF-8", "Rename it, or give a link to it.")
    match = _SCHEME.fullmatch(text)
    if match is None:
        check_slashes(text, {*STORES, *_OTHER_NAMES})
        return _parse_path(text)
    if redacted(text) != text:
        raise UnsupportedUri(
            text,
            "it has credentials in it, which would end up in catalogs and model cards",
            "Leave them out: they are taken from the environment, from AWS's configuration, or, for a "
            "web site, from the headers of `sites` in lego-ray.toml.",
        )
    scheme, rest = match.group(1).lower(), match.group(2)
    scheme = _OTHER_NAMES.get(scheme, scheme)
    if scheme == "https" and (page := _on_hub(rest)) is not None:
        return _parse_page(text, page)
    if scheme not in STORES:
        raise UnsupportedUri(text, f"the scheme {scheme}:// is not supported", forms())
    return STORES[scheme].parse(text, rest)


def forms() -> str:
    """How places may be given, as an error says it."""
    *others, last = (kind.form for kind in STORES.values())
    return f"Give a path, {', '.join(others)}, or {last}."


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
            "Give them in the variables that docs/stores.md lists, or in HF_TOKEN.",
        )
    return endpoint


def _parse_file(text: str, rest: str) -> FilePlace:
    host, slash, path = rest.partition("/")
    if host not in ("", "localhost") or not slash:
        raise UnsupportedUri(text, "a file URI names a host, or no absolute path", forms())
    return _parse_path("/" + unquote(path))


def _parse_web(text: str, rest: str) -> WebPlace:
    plain = rest.partition("#")[0].rstrip("/")
    host = re.split(r"[/?:]", plain, maxsplit=1)[0].lower()
    if not host:
        raise UnsupportedUri(text, "there is no host in it", forms())
    scheme = text.partition(":")[0].lower()
    if scheme == "http" and host not in _THIS_MACHINE:
        hint = f"Use https://. {forms()}"
        raise UnsupportedUri(text, "anyone on the way could change what comes", hint)
    # A link to one file in a bucket is an address as any other; a folder is nothing on the web.
    if (s3 := on_s3(plain)) and "." not in plain.rpartition("/")[2]:
        raise UnsupportedUri(text, "it is a bucket or a folder in one, and no file", f"Give {s3}.")
    return WebPlace(f"{scheme}://{plain}")


def _parse_bucket(kind: Callable[[str, str], Place]) -> Callable[[str, str], Place]:
    """What reads the URIs of a kind of object store."""

    def parse(text: str, rest: str) -> Place:
        bucket, _, prefix = rest.partition("/")
        if not bucket:
            raise UnsupportedUri(text, "there is no bucket in it", forms())
        return kind(bucket, prefix.strip("/"))

    return parse


def _parse_path(text: str) -> FilePlace:
    # Lexical, so that a path through a symbolic link stays the one the user gave.
    try:
        path = os.path.normpath(Path(text).expanduser().absolute())
    except (RuntimeError, OSError) as error:  # of a user there is not, or from nowhere
        raise UnsupportedUri(text, f"it has no absolute path ({error})", forms()) from None
    return FilePlace("/" + path.lstrip("/"))


def _parse_hub(text: str, rest: str) -> HubPlace:
    rest = rest.strip("/").removeprefix("models/")
    repo_id, at, tail = rest.partition("@")
    revision = ""
    if at and repo_id.count("/") == 1:
        match = _HUB_REVISION.fullmatch(tail)
        if match is None:
            raise UnsupportedUri(text, "the revision after '@' is empty", forms())
        revision, subfolder = unquote(match.group(1)), match.group(2) or ""
    else:
        # No revision, or an '@' further down, which is part of a folder's name.
        owner, _, after = rest.partition("/")
        name, _, subfolder = after.partition("/")
        repo_id = f"{owner}/{name}"
    if not _HUB_REPO.fullmatch(repo_id):
        raise UnsupportedUri(text, "it names no repository as owner/name", forms())
    if repo_id.split("/")[0] == "collections":
        raise UnsupportedUri(
            text, "a collection of the Hub can only be a source of adapters", forms()
        )
    if repo_id.split("/")[0] in ("datasets", "spaces", "buckets", "kernels"):
        raise UnsupportedUri(
            text,
            "only model repositories hold adapters",
            f"Upload the adapters to a model repository, or download them. {forms()}",
        )
    return HubPlace(repo_id, revision, subfolder.strip("/"))


def _on_hub(rest: str) -> str | None:
    """The path of a page on the Hub; None of any other address."""
    host, _, path = rest.partition("/")
    hosts = {*_HUB_HOSTS, os.environ.get("HF_ENDPOINT", "").partition("://")[2].strip("/")}
    return path if host.lower() in hosts - {""} else None


def named_on_hub(name: str) -> str:
    """The `hf://` form of what may be a repository on the Hub; empty if it cannot be one.

    Args:
        name: `owner/name`, or the address of its page without `https://`.
    """
    if _on_hub(name) is not None:
        with suppress(UnsupportedUri):
            return str(parse_uri(f"https://{name}"))
        return ""
    return f"hf://{name}" if _HUB_REPO.fullmatch(name) else ""


def _parse_page(text: str, path: str) -> HubPlace:
    """Reads the address of a repository's page, or of a folder or file in it."""
    plain = unquote(re.split(r"[?#]", path, maxsplit=1)[0]).strip("/")
    owner, _, rest = plain.partition("/")
    name, _, rest = rest.partition("/")
    view, _, rest = rest.partition("/")
    if not view or f"{owner}/" in ("datasets/", "spaces/", "collections/"):
        return _parse_hub(text, plain)
    if view not in _HUB_VIEWS or not rest:
        problem = "this page of the Hub is not of a repository's files"
        raise UnsupportedUri(text, problem, f"Give hf://{owner}/{name}. {forms()}")
    revision, _, folder = rest.partition("/")
    return _parse_hub(text, f"{owner}/{name}@{quote(revision, safe='')}/{folder}")


def collection_slug(text: str) -> str | None:
    """`owner/slug` of a collection on the Hub, or None for any other place.

    A collection is no place in a store: it lists repositories, each of which is one.

    Args:
        text: `hf://collections/owner/slug`, or any place.

    Raises:
        UnsupportedUri: If it is a collection's, of another form.
    """
    match = _HUB_COLLECTION.fullmatch(text)
    if match is None:
        return None
    slug = (match[1] or "").strip("/")
    if not _HUB_REPO.fullmatch(slug):
        raise UnsupportedUri(
            text,
            "it names no collection as hf://collections/owner/slug; a collection has no revisions and "
            "no folders",
            "Copy owner and slug from the address of its page, with the digits at its end.",
        )
    return slug


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


@dataclass(frozen=True, slots=True)
class StoreKind:
    """A kind of store.

    Attributes:
        form: How a place in one is given.
        parse: Reads a URI: takes all of it, for errors, and what follows its scheme.
    """

    form: str
    parse: Callable[[str, str], Place]


# By scheme.
STORES: dict[str, StoreKind] = {
    "file": StoreKind("file:///path", _parse_file),
    "s3": StoreKind("s3://bucket/prefix", _parse_bucket(S3Place)),
    "gs": StoreKind("gs://bucket/prefix", _parse_bucket(GsPlace)),
    "az": StoreKind("az://container/prefix", _parse_bucket(AzPlace)),
    "https": StoreKind("https://host/file", _parse_web),
    "hf": StoreKind("hf://owner/name[@revision][/subfolder]", _parse_hub),
}
