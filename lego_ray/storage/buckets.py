"""Settings of single buckets, so that a run can read from one account and write to another.

They come from `lego-ray.toml` and from a recipe file, whose own settings count where both name a bucket:

[buckets.zoo-of-acme]
profile = "acme"
requester_pays = true
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from lego_ray.errors import InvalidOption, RecipeError
from lego_ray.formats.forms import Form, read_as

FILE = "lego-ray.toml"
FILE_VARIABLE = "LEGO_RAY_CONFIG"
VARIABLE = "LEGO_RAY_BUCKETS"
"""Holds the settings as JSON while a recipe's count, and on workers; no secrets are among them."""

Text = Annotated[str, Field(min_length=1)]


class BucketSettings(Form):
    """How one bucket is reached; what is left out is as for all buckets.

    Attributes:
        profile: Profile of AWS's configuration with the credentials, and with what else it says.
        endpoint: Address of the server.
        region: Region to sign for.
        anonymous: Whether to sign no request, as public buckets allow.
        requester_pays: Whether to agree to pay for requests.
        sse: Encryption to ask for when an object is written.
        sse_kms_key_id: The KMS key of that encryption.
    """

    model_config = ConfigDict(extra="forbid")

    profile: Text | None = None
    endpoint: Text | None = None
    region: Text | None = None
    anonymous: bool = False
    requester_pays: bool = False
    sse: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = None
    sse_kms_key_id: Text | None = None


class _File(Form):
    model_config = ConfigDict(extra="forbid")

    buckets: Mapping[str, BucketSettings] = {}


NO_SETTINGS = BucketSettings()


def bucket_settings(bucket: str) -> BucketSettings:
    """The settings of a bucket.

    Args:
        bucket: Its name.

    Raises:
        RecipeError: If `lego-ray.toml` is not as it must be.
        InvalidOption: If the file that LEGO_RAY_CONFIG names cannot be read.
    """
    return all_settings().get(bucket, NO_SETTINGS)


def all_settings() -> Mapping[str, BucketSettings]:
    """The settings of all buckets that have any; see `bucket_settings`."""
    given = os.environ.get(VARIABLE)
    if given is not None:
        return _of_text(given)
    named = os.environ.get(FILE_VARIABLE)
    path = Path(named or FILE)
    try:
        about = path.stat()
    except OSError as error:
        if named:
            raise InvalidOption(FILE_VARIABLE, f"{named} cannot be read: {error}") from error
        return {}
    return _of_file(str(path.absolute()), about.st_mtime_ns, about.st_size)


def settings_as_text() -> str:
    """The settings of all buckets, as `VARIABLE` holds them; empty if none has any."""
    found = all_settings()
    return _as_text(found) if found else ""


@contextmanager
def buckets_in_use(own: Mapping[str, BucketSettings]) -> Iterator[None]:
    """Makes settings count for the block, beside those of `lego-ray.toml`.

    Args:
        own: By bucket.
    """
    if not own:
        yield
        return
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = _as_text({**all_settings(), **own})
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


def _as_text(settings: Mapping[str, BucketSettings]) -> str:
    return json.dumps(
        {bucket: each.model_dump(exclude_defaults=True) for bucket, each in settings.items()}
    )


@lru_cache(maxsize=8)
def _of_text(text: str) -> Mapping[str, BucketSettings]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise InvalidOption(VARIABLE, f"it is not JSON: {error}") from error
    return _read({"buckets": content}, VARIABLE)


@lru_cache(maxsize=8)
def _of_file(path: str, modified: int, size: int) -> Mapping[str, BucketSettings]:
    try:
        content = tomllib.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise RecipeError(path, (f"it is not TOML: {error}",)) from error
    return _read(content, path)


def _read(content: Mapping[str, Any], where: str) -> Mapping[str, BucketSettings]:
    return read_as(_File, content, lambda faults: RecipeError(where, faults)).buckets
