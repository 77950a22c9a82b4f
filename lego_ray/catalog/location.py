"""Where tables are, and what a store's failures mean: the Delta library's words made ours."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from lego_ray.errors import (
    AccessDenied,
    CatalogError,
    InvalidOption,
    LegoRayError,
    ObjectNotFound,
    StoreUnavailable,
)

# Options by which the caller has chosen how S3 commits are kept apart.
_COMMIT_OPTIONS = frozenset({"aws_conditional_put", "conditional_put", "aws_s3_locking_provider"})

_DENIED = re.compile(
    r"\b40[13]\b|AccessDenied|Forbidden|InvalidAccessKeyId|SignatureDoesNotMatch|Unauthenticated"
    r"|PermissionDenied|Permission denied"
)
_NO_BUCKET = re.compile(r"NoSuchBucket")
_UNREACHABLE = re.compile(
    r"error sending request|tcp connect|dns error|timed out|SlowDown|\b50[0234]\b"
    # A connection that broke off in an answer's body, which the library does not try again.
    r"|connection (?:closed|reset|aborted)|broken pipe|response body",
    re.IGNORECASE,
)
# What the library quotes of a file can be as long as the file.
LONGEST = 2000
# The library colours the arrows between an error and its cause.
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def table_uri(uri: str, table: str) -> str:
    """Joins a catalog's URI and a table's name.

    Args:
        uri: The catalog's.
        table: A key of `TABLES`.

    Raises:
        InvalidOption: If the URI is empty, or a path that the Delta library would misread.
    """
    if not uri:
        raise InvalidOption("--catalog", "the URI is empty")
    scheme, separator, _ = uri.partition("://")
    if separator and scheme != "file":
        path = uri.rstrip("/")
    else:
        local = unquote(urlsplit(uri).path) if separator else uri
        path = str(Path(local).expanduser().absolute())
        # The library decodes such a path, then does not find it.
        if re.search(r"%[0-9A-Fa-f]{2}", path):
            raise InvalidOption(uri, "a catalog's path may not hold a percent code")
    return f"{path}/{table}"


def delta_options(uri: str, options: Mapping[str, str]) -> dict[str, str]:
    """Completes the Delta library's options.

    S3 commits are create-only puts unless the caller chose otherwise: the one thing that S3
    servers agree on, and it needs no lock table.

    Args:
        uri: The catalog's.
        options: What the caller gave.
    """
    complete = dict(options)
    if uri.startswith(("s3://", "s3a://")) and not _COMMIT_OPTIONS & {k.lower() for k in options}:
        complete["aws_conditional_put"] = "etag"
    return complete


@contextmanager
def explain(uri: str) -> Iterator[None]:
    """Turns what the Delta library raises inside the block into lego-ray's errors."""
    import pyarrow as pa
    from deltalake.exceptions import DeltaError

    try:
        yield
    except LegoRayError:
        raise
    except (DeltaError, OSError, pa.ArrowException) as error:
        raise translate(uri, error) from error


def translate(uri: str, error: Exception) -> LegoRayError:
    """Names the error that a failure of the Delta library amounts to.

    The library has few error types, so the store's own codes are looked for in its text.

    Args:
        uri: The table's, for the error.
        error: What the library raised.
    """
    text = " ".join(_COLOUR.sub("", str(error)).split()).rstrip(".")
    if isinstance(error, PermissionError) or _DENIED.search(text):
        return AccessDenied(uri, text, "Check the credentials and the bucket's policy.")
    if _NO_BUCKET.search(text):
        return ObjectNotFound(uri, "there is no such bucket", "Make the bucket first.")
    if _UNREACHABLE.search(text):
        return StoreUnavailable(uri, text, "Check the endpoint, then run again.")
    return CatalogError(uri, text[:LONGEST])
