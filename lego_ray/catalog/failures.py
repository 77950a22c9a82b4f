"""What a store's failures mean: the Delta library's and Arrow's words made ours, or read again."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from lego_ray.errors import (
    AccessDenied,
    CatalogError,
    LegoRayError,
    NoSpaceLeft,
    ObjectNotFound,
    StoreUnavailable,
)
from lego_ray.storage.file_errors import TOO_LARGE
from lego_ray.storage.s3_hints import (
    ANOTHER_ANSWERS,
    CERTIFICATE,
    CREATE_ONLY,
    PROXY,
    REGION,
    hint_for,
)

T = TypeVar("T")

_DENIED = re.compile(
    r"\b40[13]\b|AccessDenied|Forbidden|InvalidAccessKeyId|SignatureDoesNotMatch|Unauthenticated"
    r"|PermissionDenied|Permission denied"
)
# What a server answered, as the Delta library quotes it.
_STATUS = re.compile(r"(?:status:?|error) (\d{3})\b")
_CODE = re.compile(r"<Code>([^<]*)</Code>")
_MESSAGE = re.compile(r"<Message>([^<]*)</Message>")
_CERTIFICATE = re.compile(
    r"invalid peer certificate|curlCode: 60\b|certificate verify failed", re.I
)
_OTHER_REGION = re.compile(
    r"redirect without LOCATION|PermanentRedirect|AuthorizationHeaderMalformed"
)
_NOT_KNOWN = re.compile(r"\b501\b|NotImplemented|not implemented")
# What the system says of a disk that is full and of a file that is too large, through either library.
_FULL = re.compile(r"No space left on device|Disk quota exceeded")
_TOO_LARGE = re.compile(r"File too large")
_NOT_S3 = re.compile(r"Got invalid list response")
_OF_A_PROXY = re.compile(r"\b407 Proxy Authentication Required")
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound")
_UNREACHABLE = re.compile(
    r"error sending request|tcp connect|dns error|timed out|SlowDown|\b50[0234]\b", re.IGNORECASE
)
# A connection that broke off within an answer, which the Delta library does not try again, and what
# Arrow's S3 client says of one and of a server that is busy.
_BROKEN_OFF = re.compile(
    r"connection (?:closed|reset|aborted)|broken pipe|response body"
    r"|AWS Error (?:NETWORK_CONNECTION|INTERNAL_FAILURE|SERVICE_UNAVAILABLE|SLOW_DOWN"
    r"|REQUEST_TIMEOUT|THROTTLING|UNKNOWN \(HTTP status 50[0234]\))",
    re.IGNORECASE,
)
# What the Delta library says of a commit that another overtook. Anything else
# it would say again.
_CONFLICT = re.compile(
    r"^Failed to commit transaction|^Tried committing existing table version|a concurrent transaction"
    r"|changed since last commit"
)
# What the Delta library says of a table that it opens and cannot read the rows of.
_FEATURES = re.compile(r"has set these reader features: \{([^}]*)\}")
# What Arrow says of a file that is not as it was written.
_DAMAGED = re.compile(
    r"page integrity|CRC checksum|corrupt|Parquet magic bytes|thrift|decompress|Parquet file size"
    r"|Unknown encoding|Unexpected end of stream|Invalid Parquet|metadata out of",
    re.IGNORECASE,
)
DAMAGE_HINT = "`lego-ray catalog check --deep --catalog URI` lists the damaged files."
FEATURE_HINT = (
    "Take the feature off with Spark's `ALTER TABLE ... DROP FEATURE`, restore the table, or use "
    "another catalog."
)
# What the library quotes of a file can be as long as the file.
LONGEST = 2000
# The library colors the arrows between an error and its cause.
_COLOR = re.compile(r"\x1b\[[0-9;]*m")
# With one request in a hundred broken off, a reading of fifty fails in two of five; ten of ten in a row
# once in ten thousand.
READINGS = 10
_WAIT_SECONDS = 0.1
_REOPENINGS = 4


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


def read_through(uri: str, read: Callable[[], T]) -> T:
    """Reads from a table, and again where the connection broke off on the way.

    A server that cannot be reached is not asked again: the libraries have tried that for seconds.

    Args:
        uri: The table's, for errors.
        read: Reads, from the beginning each time, and changes nothing. What the Delta library raises
            in it becomes lego-ray's errors.

    Raises:
        StoreUnavailable: If the connection broke off `READINGS` times.
    """
    for _ in range(READINGS - 1):
        try:
            with explain(uri):
                return read()
        except StoreUnavailable as error:
            if not is_broken_off(error.problem):
                raise
        time.sleep(_WAIT_SECONDS)
    with explain(uri):
        return read()


def reopen(read: Callable[[], T]) -> T:
    """Reads from a table, and again where files of its state were gone.

    A vacuum takes away files that were replaced. One without retention takes those of a state that was
    opened just before; the next state has others.

    Args:
        read: Opens the table and reads, from the beginning each time.

    Raises:
        CatalogError: If files were gone each time: they are lost.
    """
    for _ in range(_REOPENINGS):
        try:
            return read()
        except CatalogError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
    return read()


def is_broken_off(text: str) -> bool:
    """Whether an error's text says that the connection, or the server, failed in passing."""
    return _BROKEN_OFF.search(text) is not None


def is_conflict(error: Exception) -> bool:
    """Whether a commit failed because another came first, so that it can be made again."""
    return _CONFLICT.search(str(error)) is not None


def is_damaged(text: str) -> bool:
    """Whether an error's text says that a file is not as it was written."""
    return _DAMAGED.search(text) is not None


def _hint(text: str) -> str:
    """What to do about a refusal that the Delta library quotes; empty if it quotes none."""
    status, code, message = (each.search(text) for each in (_STATUS, _CODE, _MESSAGE))
    if code is None:
        return ""
    return hint_for(code[1], message[1] if message else "", int(status[1]) if status else 403)


def translate(uri: str, error: Exception) -> LegoRayError:
    """Names the error that a failure of the Delta library amounts to.

    The library has few error types, so the store's own codes are looked for in its text.

    Args:
        uri: The table's, for the error.
        error: What the library raised.
    """
    text = " ".join(_COLOR.sub("", str(error)).split()).rstrip(".")
    if isinstance(error, PermissionError) or _DENIED.search(text):
        return AccessDenied(
            uri, text, _hint(text) or "Check the credentials and the bucket's policy."
        )
    if _FULL.search(text):
        return NoSpaceLeft(uri, text[:LONGEST])
    if _TOO_LARGE.search(text):
        return NoSpaceLeft(uri, text[:LONGEST], TOO_LARGE)
    if _NO_BUCKET.search(text):
        return ObjectNotFound(uri, "there is no such bucket", "Create the bucket first.")
    if _NOT_S3.search(text):
        return StoreUnavailable(uri, text[:LONGEST], ANOTHER_ANSWERS)
    if _OF_A_PROXY.search(text):
        return StoreUnavailable(uri, text[:LONGEST], PROXY)
    if _CERTIFICATE.search(text):
        return StoreUnavailable(uri, text, CERTIFICATE)
    if _OTHER_REGION.search(text):
        return CatalogError(uri, text[:LONGEST], REGION)
    if _NOT_KNOWN.search(text):
        return CatalogError(uri, text[:LONGEST], CREATE_ONLY)
    if _UNREACHABLE.search(text) or is_broken_off(text):
        return StoreUnavailable(uri, text, "Check the endpoint, then run again.")
    if isinstance(error, FileNotFoundError):
        return CatalogError(
            uri,
            text[:LONGEST],
            "If a vacuum with --force was running, run again; otherwise "
            "`lego-ray catalog check --deep --catalog URI` lists the files that are missing.",
        )
    if unread := _FEATURES.search(text):
        features = unread[1].replace("'", "")
        return CatalogError(
            uri,
            f"another program gave the table {features}, which lego-ray cannot read",
            FEATURE_HINT,
        )
    if is_damaged(text):
        return CatalogError(
            uri,
            f"a file of it is damaged: {text[:LONGEST]}",
            DAMAGE_HINT,
        )
    return CatalogError(uri, text[:LONGEST])
