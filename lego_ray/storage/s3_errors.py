"""What boto3's errors mean."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lego_ray.errors import (
    AccessDenied,
    ObjectNotFound,
    StorageError,
    StoreUnavailable,
    UnsupportedUri,
)
from lego_ray.storage.s3_body import CutBodyError
from lego_ray.storage.s3_hints import (
    ANOTHER_ANSWERS,
    CERTIFICATE,
    CONFIGURATION,
    NO_CREDENTIALS,
    PROXY,
    REGION,
    hint_for,
)
from lego_ray.storage.versions import changed

if TYPE_CHECKING:
    from botocore.exceptions import BotoCoreError, ClientError

_SERVER = "Check AWS_ENDPOINT_URL, the region and the network, then start again."
# Codes that come with status 400 and still speak of credentials.
_DENIED_400 = {"ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired"}
# Characters of a server's own words that go into a message.
_QUOTED = 500
_BUSY_400 = {"RequestTimeout", "Throttling", "ThrottlingException", "RequestLimitExceeded"}


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a server answered instead of doing as asked.

    Attributes:
        status: HTTP status, 0 where there is none.
        code: S3's own word for it; the status again where an answer has no body.
        message: S3's sentence for it, may be empty.
        retried: How often boto3 tried again before giving up.
    """

    status: int
    code: str
    message: str
    retried: int


def refusal(error: ClientError) -> Refusal:
    """Reads a refusal out of boto3's error."""
    about = error.response["ResponseMetadata"]
    said = error.response["Error"]
    return Refusal(
        about.get("HTTPStatusCode", 0),
        said.get("Code", ""),
        # Some servers send none, which botocore makes a None.
        said.get("Message") or "",
        about.get("RetryAttempts", 0),
    )


@contextmanager
def s3_errors(where: str) -> Iterator[None]:
    """Turns an error of boto3 in the block into the one that says what it means.

    Args:
        where: The object's or the root's URI.

    Raises:
        ObjectNotFound: If there is no such bucket or object.
        AccessDenied: If credentials are missing, wrong or not enough.
        SourceChanged: If the object is not of the version that was asked for.
        StoreUnavailable: If the server was not reached, or refused every try.
        UnsupportedUri: If the bucket's name, the key or the endpoint is malformed.
        StorageError: If it is anything else.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        answer = refusal(error)
        if answer.status == 412:  # to a GET with If-Match; who creates looks at it first
            raise changed(where) from error
        raise _refused(where, answer) from error
    except BotoCoreError as error:
        raise _failed(where, error) from error
    except CutBodyError as error:
        raise StoreUnavailable(where, f"the answer was cut short: {error}", _SERVER) from error
    except RecursionError as error:  # botocore asks for the region, which is redirected as well
        problem = "the server redirects every request"
        raise StoreUnavailable(where, problem, ANOTHER_ANSWERS) from error
    except ValueError as error:
        # botocore refuses a malformed endpoint with a plain ValueError.
        if "endpoint" not in str(error).lower():
            raise
        raise UnsupportedUri(where, f"boto3 refused it: {error}", _SERVER) from error


def said_by_server(answer: Refusal, times: str = "") -> str:
    """A refusal in words: status, code and the server's own sentence, on one line.

    Args:
        answer: The refusal.
        times: How often it came, with a comma before it.
    """
    words = " ".join(answer.message.split()).rstrip(".")[:_QUOTED]
    code = "" if answer.code == str(answer.status) else f" {answer.code}"
    said = f"the server answered {answer.status}{code}{times}"
    return f"{said}: {words}" if words else said


def _refused(where: str, answer: Refusal) -> StorageError:
    status, code = answer.status, answer.code
    full = said_by_server(answer)
    hint = hint_for(code, answer.message, status)
    if code == "NoSuchBucket":
        return ObjectNotFound(where, "there is no such bucket", "Check its name and the endpoint.")
    if code == "InvalidBucketName":
        return UnsupportedUri(where, "this cannot be a bucket's name")
    if status == 404:
        return ObjectNotFound(where, "there is no such object")
    if status in (401, 403) or code in _DENIED_400:
        return AccessDenied(where, full, hint or NO_CREDENTIALS)
    if status == 416:
        return StorageError(
            where,
            "bytes past the end of the object were asked for",
            "The object is truncated, or its header belongs to another file.",
        )
    if status == 501:
        return StorageError(where, full, hint)
    if status == 407:
        return StoreUnavailable(where, full.replace("the server", "the proxy", 1), hint)
    if status == 429 or status >= 500 or code in _BUSY_400:
        often = said_by_server(answer, f", {answer.retried + 1} times")
        return StoreUnavailable(where, often, hint or _SERVER)
    if status in (301, 307):
        return StorageError(where, full, hint or REGION)
    return StorageError(where, full, hint)


def _failed(where: str, error: BotoCoreError) -> StorageError:
    from botocore import exceptions as b

    credentials = (
        b.NoCredentialsError,
        b.PartialCredentialsError,
        b.CredentialRetrievalError,
        b.ProfileNotFound,
    )
    if isinstance(error, b.SSOError | b.LoginError | b.NoAuthTokenError | b.TokenRetrievalError):
        return AccessDenied(where, str(error).rstrip(". "), _login())
    network = (b.HTTPClientError, b.ConnectionError, b.IncompleteReadError)
    said = str(error).rstrip(".")
    if isinstance(error, credentials):
        return AccessDenied(where, said, NO_CREDENTIALS)
    if isinstance(error, b.SSLError):
        return StoreUnavailable(where, said, CERTIFICATE)
    if isinstance(error, b.ProxyConnectionError):
        return StoreUnavailable(where, said, PROXY)
    if isinstance(error, network):
        return StoreUnavailable(where, said, _SERVER)
    if isinstance(error, b.ParamValidationError):
        return UnsupportedUri(where, " ".join(said.split()), "Check the bucket's name.")
    settings = (
        *(b.ConfigNotFound, b.ConfigParseError, b.InvalidConfigError, b.InvalidRegionError),
        *(b.InvalidChecksumConfigError, b.InvalidS3AddressingStyleError, b.ValidationError),
    )
    return StorageError(where, said, CONFIGURATION if isinstance(error, settings) else "")


def _login() -> str:
    """How to log in again; the profile is that of this process."""
    profile = os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE")
    command = f"aws sso login --profile {profile}" if profile else "aws sso login"
    return f"Run `{command}`, then start again."
