"""What huggingface_hub's errors mean."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from json import JSONDecodeError

from lego_ray.errors import (
    AccessDenied,
    AlreadyExists,
    ObjectNotFound,
    StorageError,
    StoreUnavailable,
    UnsupportedUri,
)

_LOGIN = "Set HF_TOKEN, or run `hf auth login`, with"
_MAY_READ = f"{_LOGIN} an account that may read it."
_MAY_WRITE = f"{_LOGIN} a token that may write there."
_NETWORK = "Check HF_ENDPOINT and the network, then start again."
# Where the HTTP errors come from that huggingface_hub lets through: it moved from requests to
# httpx, and tells neither in its own types.
_HTTP_LIBRARIES = {"requests", "urllib3", "httpx", "httpx2", "httpcore", "httpcore2"}
# What hf_xet says of an answer, in errors whose types say only that it came by the network.
_XET_STATUS = re.compile(r"HTTP status (?:client|server) error \((\d{3})\b")
# Characters of a server's own words that go into a message.
_QUOTED = 300


@contextmanager
def hub_errors(where: str, *, writing: bool = False) -> Iterator[None]:
    """Turns an error of huggingface_hub in the block into the one that says what it means.

    No message holds the token, whatever the server sent back.

    Args:
        where: The file's or the root's URI.
        writing: Whether the block writes, for what to do next.

    Raises:
        ObjectNotFound: If there is no such repository, revision or file.
        AccessDenied: If the repository is gated, or the token is wrong or missing.
        AlreadyExists: If a commit was built on another than the branch's last, or what is to be
            made is there.
        StoreUnavailable: If the Hub was not reached, is offline by setting, or refused every try.
        UnsupportedUri: If the repository's name is malformed.
        StorageError: If it is anything else the Hub answered.
    """
    try:
        yield
    except Exception as error:
        meaning = _meaning(where, error, _MAY_WRITE if writing else _MAY_READ)
        if meaning is None:
            raise
        raise meaning from error


def no_token(where: str) -> AccessDenied:
    """The error of writing without a token."""
    return AccessDenied(where, "no Hub token is set, and writing needs one", _MAY_WRITE)


def is_network(error: Exception) -> bool:
    """Whether a request ended without an answer of the Hub: none at all, or an overload's page."""
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, JSONDecodeError):
        return True
    library = type(error).__module__.split(".")[0]
    return library in _HTTP_LIBRARIES and not isinstance(error, HfHubHTTPError)


def _meaning(where: str, error: BaseException, token: str) -> StorageError | None:
    from huggingface_hub import errors as h

    # The order matters: a gated repository is a kind of one that is not found.
    if isinstance(error, h.GatedRepoError):
        return AccessDenied(
            where, "the repository is gated", f"Accept its terms on the Hub. {token}"
        )
    if isinstance(error, h.RepositoryNotFoundError):
        return ObjectNotFound(
            where,
            "there is no such repository, or it is private",
            f"Check owner and name. {token}",
        )
    if isinstance(error, h.RevisionNotFoundError):
        return ObjectNotFound(where, "the repository has no such revision", "Check the @revision.")
    if isinstance(error, h.EntryNotFoundError):
        return ObjectNotFound(where, "the repository has no such file or folder")
    if isinstance(error, h.OfflineModeIsEnabled):
        return StoreUnavailable(where, "HF_HUB_OFFLINE is set", "Unset it to reach the Hub.")
    if isinstance(error, h.HFValidationError):
        return UnsupportedUri(where, _quoted(error))
    if isinstance(error, h.HfHubHTTPError):
        status = getattr(error.response, "status_code", 0)
        return _status(where, status, _quoted(error.server_message or ""), token)
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
        # An upload's thread wraps what stopped it.
        return _meaning(where, error.__cause__, token)
    if isinstance(error, UnicodeEncodeError):  # of a header, which has the token
        problem = "the Hub token has characters that no token has"
        return AccessDenied(where, problem, f"Copy it again. {token}")
    if isinstance(error, JSONDecodeError | KeyError | TypeError):  # not an answer of the Hub
        return StoreUnavailable(
            where, "the Hub is too busy, or something else answers in its place", _NETWORK
        )
    if isinstance(error, ValueError):  # such as a card that it does not take
        return StorageError(where, f"huggingface_hub says: {_quoted(error)}")
    if match := _XET_STATUS.search(str(error)):
        return _status(where, int(match[1]), "", token)
    if type(error).__module__.split(".")[0] == "hf_xet" and isinstance(error, PermissionError):
        return AccessDenied(where, f"the Hub's file storage says: {_quoted(error)}", token)
    if type(error).__module__.split(".")[0] in _HTTP_LIBRARIES or isinstance(error, OSError):
        said = _quoted(error) or type(error).__name__
        return StoreUnavailable(where, f"the Hub could not be reached: {said}", _NETWORK)
    return None


def _status(where: str, status: int, said: str, token: str) -> StorageError:
    answer = f"the Hub answered {status}"
    full = f"{answer}: {said}" if said else answer
    if status in (401, 403):
        return AccessDenied(where, full, token)
    if status == 404:
        return ObjectNotFound(where, full)
    if status == 407:
        return StoreUnavailable(
            where,
            f"a proxy answered {status}{f': {said}' if said else ''}",
            "Check HTTPS_PROXY and NO_PROXY, then start again.",
        )
    if status in (409, 412):
        return AlreadyExists(where, full, "Check what is there, then run the same command again.")
    if status == 416:
        return StorageError(
            where,
            "bytes past the end of the file were asked for",
            "The file is truncated, or its header belongs to another file.",
        )
    if status == 429:
        return StoreUnavailable(
            where,
            f"{answer} at every try: too many requests",
            "Wait for some minutes, then start again.",
        )
    if status == 408 or status >= 500:
        return StoreUnavailable(where, f"{answer} at every try", _NETWORK)
    return StorageError(where, full)


def _quoted(said: object) -> str:
    """Another's words, on one line, cut short, without the token."""
    from huggingface_hub import get_token

    text = " ".join(str(said).split()).rstrip(".")
    if token := get_token():
        text = text.replace(token, "***")
    return text[:_QUOTED]
