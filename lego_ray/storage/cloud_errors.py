"""What obstore's errors mean."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from lego_ray.errors import (
    AccessDenied,
    AlreadyExists,
    MissingPackage,
    ObjectNotFound,
    StorageError,
    StoreUnavailable,
)
from lego_ray.storage.versions import changed

NO_CREDENTIALS = {
    "gs": (
        "Run `gcloud auth application-default login`, set GOOGLE_APPLICATION_CREDENTIALS to a service "
        "account's file, or use a machine with a role. A public bucket needs `anonymous = true` in "
        "lego-ray.toml."
    ),
    "az": (
        "Set AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN, or run `az login` and set "
        "AZURE_USE_AZURE_CLI=true, or use a machine with a role. A public container needs "
        "`anonymous = true` in lego-ray.toml."
    ),
}
_NETWORK = "Check the server's address, the proxy and the network, then start again."
_STATUS = re.compile(r"non-2xx status code: (\d{3})")
_CODE = re.compile(r"<Code>([^<]*)</Code>")
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|bucket does not exist")
# The servers that give a machine's role its token: asked where no other credentials are found.
_ROLE = re.compile(r"169\.254\.169\.254|metadata\.google\.internal|oauth2|login\.microsoft")
# No credentials but a role could be meant, and its server gave none.
_NO_ROLE = re.compile(
    r"token request.*GET http://(?:169\.254\.169\.254|metadata\.google\.internal)", re.S
)
_PAST_END = re.compile(r"invalid range|InvalidRange|requested range|Range Not Satisfiable", re.I)
_UNREACHABLE = re.compile(
    r"error sending request|connect|dns error|timed out|timeout|reset|decoding response body", re.I
)
# Characters of the library's own words that go into a message.
_QUOTED = 500


@contextmanager
def cloud_errors(where: str) -> Iterator[None]:
    """Turns an error of obstore in the block into the one that says what it means.

    Args:
        where: The object's or the root's URI.

    Raises:
        MissingPackage: If obstore is not installed.
        ObjectNotFound: If the bucket or the object does not exist.
        AccessDenied: If credentials are missing, wrong or not enough.
        AlreadyExists: If a create-only put found an object.
        SourceChanged: If the object is not of the version that was asked for.
        StoreUnavailable: If the server was not reached, or refused every try.
        StorageError: If it is anything else.
    """
    try:
        from obstore import exceptions
    except ImportError:
        raise MissingPackage(
            where,
            "this kind of store is reached by obstore, which is not installed",
            "pip install 'lego-ray[cloud]'",
        ) from None
    try:
        yield
    except exceptions.AlreadyExistsError:
        raise AlreadyExists(where, "an object already exists there") from None
    except exceptions.PreconditionError as error:
        raise changed(where) from error
    except (exceptions.BaseError, OSError) as error:
        raise meaning(where, error) from error


def meaning(where: str, error: Exception) -> StorageError:
    """The error that a failure of obstore amounts to, by its type and by the status it quotes.

    Args:
        where: The object's or the root's URI.
        error: What obstore raised.
    """
    from obstore import exceptions

    text = str(error)
    said = _said(text)
    scheme = where.partition("://")[0]
    found = _STATUS.search(text)
    status = int(found[1]) if found else 0
    if _NO_BUCKET.search(text):
        return ObjectNotFound(where, "there is no such bucket", "Check its name and the account.")
    if isinstance(error, FileNotFoundError):
        return ObjectNotFound(where, "there is no such object")
    if _NO_ROLE.search(text):
        return AccessDenied(where, "no credentials are found", NO_CREDENTIALS[scheme])
    denied = (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError, PermissionError)
    if isinstance(error, denied) or status in (401, 403):
        return AccessDenied(where, said, NO_CREDENTIALS.get(scheme, ""))
    if _ROLE.search(text):
        return AccessDenied(where, f"no credentials are found: {said}", NO_CREDENTIALS[scheme])
    if status == 416 or _PAST_END.search(text):
        return StorageError(
            where,
            "bytes past the end of the object were asked for",
            "The object is truncated, or its header belongs to another file.",
        )
    if status in (408, 429) or status >= 500 or (not status and _UNREACHABLE.search(text)):
        return StoreUnavailable(where, said, _NETWORK)
    return StorageError(where, said)


def _said(text: str) -> str:
    """The library's sentence on one line, without what it prints for its own developers."""
    code = _CODE.search(text)
    words = " ".join(re.split(r"Debug source|<\?xml", text)[0].split()).rstrip(".: ")
    return f"{words[:_QUOTED]} ({code[1]})" if code else words[:_QUOTED]
