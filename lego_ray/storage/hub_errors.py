"""What huggingface_hub's errors mean."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lego_ray.errors import (
    AccessDenied,
    ObjectNotFound,
    StorageError,
    StoreUnavailable,
    UnsupportedUri,
)

_TOKEN = "Set HF_TOKEN, or run `hf auth login`, with an account that may read it."
_NETWORK = "Check HF_ENDPOINT and the network, then start again."
# Where the HTTP errors come from that huggingface_hub lets through: it moved from requests to
# httpx, and tells neither in its own types.
_HTTP_LIBRARIES = {"requests", "urllib3", "httpx", "httpx2", "httpcore", "httpcore2"}


@contextmanager
def hub_errors(where: str) -> Iterator[None]:
    """Turns an error of huggingface_hub in the block into the one that says what it means.

    Args:
        where: The file's or the root's URI.

    Raises:
        ObjectNotFound: If there is no such repository, revision or file.
        AccessDenied: If the repository is gated, or the token is wrong or missing.
        StoreUnavailable: If the Hub was not reached, is offline by setting, or refused every try.
        UnsupportedUri: If the repository's name is malformed.
        StorageError: If it is anything else the Hub answered.
    """
    try:
        yield
    except Exception as error:
        meaning = _meaning(where, error)
        if meaning is None:
            raise
        raise meaning from error


def _meaning(where: str, error: Exception) -> StorageError | None:
    from huggingface_hub import errors as h

    # The order matters: a gated repository is a kind of one that is not found.
    if isinstance(error, h.GatedRepoError):
        return AccessDenied(
            where, "the repository is gated", f"Accept its terms on the Hub. {_TOKEN}"
        )
    if isinstance(error, h.RepositoryNotFoundError):
        return ObjectNotFound(
            where,
            "there is no such repository, or it is private",
            f"Check owner and name. {_TOKEN}",
        )
    if isinstance(error, h.RevisionNotFoundError):
        return ObjectNotFound(where, "the repository has no such revision", "Check the @revision.")
    if isinstance(error, h.EntryNotFoundError):
        return ObjectNotFound(where, "the repository has no such file or folder")
    if isinstance(error, h.OfflineModeIsEnabled):
        return StoreUnavailable(where, "HF_HUB_OFFLINE is set", "Unset it to read the Hub.")
    if isinstance(error, h.HFValidationError):
        return UnsupportedUri(where, str(error).rstrip("."))
    if isinstance(error, h.HfHubHTTPError):
        return _status(where, getattr(error.response, "status_code", 0))
    if type(error).__module__.split(".")[0] in _HTTP_LIBRARIES or isinstance(error, OSError):
        said = str(error).rstrip(".") or type(error).__name__
        return StoreUnavailable(where, f"the Hub could not be read: {said}", _NETWORK)
    return None


def _status(where: str, status: int) -> StorageError:
    said = f"the Hub answered {status}"
    if status in (401, 403):
        return AccessDenied(where, said, _TOKEN)
    if status == 404:
        return ObjectNotFound(where, said)
    if status == 416:
        return StorageError(
            where,
            "bytes past the end of the file were asked for",
            "The file is cut short, or its header does not belong to it.",
        )
    if status in (408, 429) or status >= 500:
        return StoreUnavailable(where, f"{said} at every try", _NETWORK)
    return StorageError(where, said)
