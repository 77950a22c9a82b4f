"""The keys of the settings file; and settings of single buckets.

With those a run can read from one account and write to another. They come from the settings file and
from a recipe file, whose own settings count where both name a bucket:

[buckets.zoo-of-acme]
profile = "acme"
requester_pays = true
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator

from lego_ray.errors import InvalidOption, RecipeError
from lego_ray.formats.forms import Form, read_as
from lego_ray.settings_file import SettingsFile, find_settings_file, read_settings

VARIABLE = "LEGO_RAY_BUCKETS"
"""Holds the settings as JSON while a recipe's count, and on workers; no secrets are among them."""

Text = Annotated[str, Field(min_length=1)]


# Names of buckets; a pattern, a prefix or a URI would be the name of none, and would do nothing.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def _bucket(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError("expected the name of one bucket alone, such as [buckets.zoo-of-acme]")
    return name


def _address(endpoint: str) -> str:
    if not endpoint.startswith(("http://", "https://")):
        raise ValueError("expected an address that begins with http:// or https://")
    return endpoint


Bucket = Annotated[str, AfterValidator(_bucket)]
"""A bucket's name."""


def _bytes_as_text(given: object) -> object:
    return str(given) if type(given) is int else given


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
        account: Azure's storage account that a container is of.
    """

    model_config = ConfigDict(extra="forbid")

    profile: Text | None = None
    endpoint: Annotated[Text, AfterValidator(_address)] | None = None
    region: Text | None = None
    anonymous: bool = False
    requester_pays: bool = False
    sse: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = None
    sse_kms_key_id: Text | None = None
    account: Text | None = None

    @model_validator(mode="after")
    def _key_has_encryption(self) -> Self:
        if self.sse_kms_key_id and self.sse in (None, "AES256"):
            raise ValueError('expected sse = "aws:kms" or "aws:kms:dsse" beside sse_kms_key_id')
        return self


class SiteSettings(Form):
    """How a web site is asked.

    Attributes:
        headers: Headers by name; `$NAME` in one is a variable of the environment.
    """

    model_config = ConfigDict(extra="forbid")

    headers: Mapping[str, Text] = {}


class Settings(Form):
    """The settings file: settings of buckets, and defaults of flags, checked when they are used.

    None of them changes what a merge is: that is in recipes.

    Attributes:
        buckets: Settings by bucket.
        catalog: Default of `--catalog`.
        runner: Default of `--runner`; those below are of the flag of their name.
        address: Where Ray is.
        workers: Most tasks at once.
        max_workers: Most workers to ask a cluster for.
        wait: Seconds to wait for a node.
        gpus: Share of a GPU each task takes.
        memory_budget: Most memory one worker may take.
        log: How events are logged.
        sites: Settings by host of a web site.
    """

    model_config = ConfigDict(extra="forbid")

    buckets: Mapping[Bucket, BucketSettings] = {}
    catalog: Text | None = None
    runner: Text | None = None
    address: Text | None = None
    workers: int | None = None
    max_workers: int | None = None
    wait: float | None = None
    gpus: float | None = None
    memory_budget: Annotated[Text | None, BeforeValidator(_bytes_as_text)] = None
    log: Text | None = None
    sites: Mapping[str, SiteSettings] = {}

    def flags(self) -> dict[str, Any]:
        """The defaults of flags that it has, by keyword."""
        return self.model_dump(exclude={"buckets", "sites"}, exclude_none=True)


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
    file = find_settings_file()
    return {} if file is None else settings_in(file).buckets


@lru_cache(maxsize=8)
def settings_in(file: SettingsFile) -> Settings:
    """What a settings file says.

    Args:
        file: The file.

    Raises:
        RecipeError: If it is not as it must be; every fault is named.
    """
    return _read(read_settings(file), file.path)


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
    return _read({"buckets": content}, VARIABLE).buckets


def _read(content: Mapping[str, Any], where: str) -> Settings:
    return read_as(Settings, content, lambda faults: RecipeError(where, faults))
