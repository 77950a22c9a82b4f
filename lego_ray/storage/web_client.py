"""Requests to web sites: redirects, names of files, and what an answer means."""

from __future__ import annotations

import os
import ssl
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from functools import lru_cache
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urlsplit
from urllib.request import HTTPRedirectHandler, HTTPSHandler, Request, build_opener

from lego_ray.errors import AccessDenied, ObjectNotFound, StorageError, StoreUnavailable
from lego_ray.storage.web_settings import headers_for

ATTEMPTS = 4
SECONDS = 60
_NETWORK = "Check the address, the proxy and the network, then start again."
_LOGIN = (
    "If the site wants a token, name it in lego-ray.toml: "
    '[sites."{host}"] headers = {{ Authorization = "Bearer $NAME_OF_A_VARIABLE" }}.'
)
_PAGE = (
    "Give the address that downloads the file, as of the page's download button (of Civitai: "
    "https://civitai.com/api/download/models/ID). A site may also show a page to those who are not "
    "logged in: see docs/command-line.md for tokens."
)
_BUNDLES = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a site says of a file.

    Attributes:
        name: Its name: the one to save it under, else the last part of its address.
        size: Its bytes, or None where the site does not say.
        version: Its ETag, else when it was last modified; empty where there is neither.
        modified_at: When it was last modified, if the site says so.
        has_ranges: Whether the site sends parts.
    """

    name: str
    size: int | None
    version: str
    modified_at: datetime | None
    has_ranges: bool


class _SameHost(HTTPRedirectHandler):
    """Follows redirects; headers of the settings go to no other host."""

    def redirect_request(
        self, req: Request, fp: Any, code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        if new is not None and _site(new.full_url) != _site(req.full_url):
            kept = {"Range", "User-agent", "Accept-encoding"}
            new.headers = {name: v for name, v in new.headers.items() if name in kept}
        return new


def ask(address: str, start: int = 0, end: int | None = None) -> HTTPResponse:
    """Begins to read a file, or a part of it.

    Args:
        address: The file's.
        start: First byte.
        end: One past the last byte; None for all of it.

    Returns:
        The answer, whose body is not read yet.

    Raises:
        ObjectNotFound: If there is none, or a web page in its place.
        AccessDenied: If the site refuses.
        StoreUnavailable: If it is not reached, or refused every try.
    """
    host = urlsplit(address).hostname or ""
    headers = {"User-Agent": "lego-ray", "Accept-Encoding": "identity"}
    headers |= headers_for(host, address)
    if end is not None:
        headers["Range"] = f"bytes={start}-{end - 1}"
    safe = quote(address, safe="%/:=&?~+!$,;'@()*[]|#")
    named = (os.environ.get(name) for name in _BUNDLES)
    bundle = next((path for path in named if path and Path(path).is_file()), None)
    # Of proxies, an opener knows those of its making.
    opener = build_opener(_SameHost(), HTTPSHandler(context=_context(bundle)))
    tried = 0
    while True:
        time.sleep(0.2 * (2**tried - 1))
        tried += 1
        try:
            answer: HTTPResponse = opener.open(Request(safe, headers=headers), timeout=SECONDS)
        except HTTPError as error:
            with error:
                if (error.code == 429 or error.code >= 500) and tried < ATTEMPTS:
                    continue
                raise _refused(address, host, error.code, error.reason) from None
        except (URLError, HTTPException, OSError) as error:
            if tried < ATTEMPTS:
                continue
            reason = getattr(error, "reason", None) or error
            raise StoreUnavailable(address, f"it was not reached: {reason}", _NETWORK) from None
        else:
            if answer.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
                answer.close()
                raise ObjectNotFound(address, "a web page came, and not a file", _PAGE)
            return answer


def described(address: str, answer: HTTPResponse) -> Answer:
    """Reads the head of an answer.

    Args:
        address: The file's, as it was asked for.
        answer: The answer.
    """
    headers = answer.headers
    total = headers.get("Content-Range", "").rpartition("/")[2]
    if answer.status != 206:
        total = headers.get("Content-Length", "")
    modified = headers.get("Last-Modified", "")
    version = headers.get("ETag", "").strip('"')
    when = None
    if modified:
        try:
            when = parsedate_to_datetime(modified).astimezone(UTC)
        except ValueError:
            modified = ""
    return Answer(
        name=_name(headers, address),
        size=int(total) if total.isdigit() else None,
        version=version or (f"{total}-{modified}" if modified else ""),
        modified_at=when,
        has_ranges=answer.status == 206,
    )


def _name(headers: Message, address: str) -> str:
    # Either form of the name, RFC 6266's with its character set first; folders in it are not meant.
    given = headers.get_filename() or ""
    name = unquote(given).replace("\\", "/").rpartition("/")[2].strip()
    if name in ("", ".", "..") or "\0" in name:
        name = unquote(urlsplit(address).path.rstrip("/").rpartition("/")[2])
    return name


def _refused(address: str, host: str, status: int, reason: object) -> StorageError:
    said = f"the site answered {status} {reason}".rstrip()
    if status in (404, 410):
        return ObjectNotFound(address, said)
    if status in (401, 403):
        return AccessDenied(address, said, _LOGIN.format(host=host))
    if status == 429 or status >= 500:
        return StoreUnavailable(address, f"{said}, {ATTEMPTS} times", _NETWORK)
    return StorageError(address, said)


def _site(address: str) -> tuple[str, str]:
    parts = urlsplit(address)
    return parts.scheme, parts.netloc


@lru_cache(maxsize=2)
def _context(bundle: str | None) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=bundle)
