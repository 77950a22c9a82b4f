"""obstore's clients for Google Cloud Storage and Azure Blob Storage, one per process and configuration.

They find credentials as Google's and Microsoft's own tools do: in the environment, in the files that
`gcloud` writes, by `az login`, or from the role of a machine. The Delta library is made of the same code
and finds the same, so it is given only what a bucket's own settings say.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lego_ray.errors import AccessDenied, InvalidOption
from lego_ray.storage.buckets import bucket_settings
from lego_ray.storage.cloud_role import check_google_credentials
from lego_ray.storage.places import CloudPlace
from lego_ray.storage.uri import check_plain

if TYPE_CHECKING:
    from obstore.store import AzureStore, GCSStore

ATTEMPTS = 5
"""Tries of one request, the first included."""

# Obstore's own limit, 30 s for a whole answer, would end large ones that are on their way.
_CLIENT = {"timeout": "1 hour", "connect_timeout": "5 seconds", "read_timeout": "60 seconds"}
# Variables, and the starts of names of variables, that obstore reads.
_READ = ("GOOGLE_", "AZURE_", "IDENTITY_", "MSI_", "HOME", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
_BUNDLES = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")

Environment = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Service:
    """How a service names its settings.

    Attributes:
        endpoint: Name of the option with the server's address.
        endpoints: Variables with that address; the first that is set.
        anonymous: Name of the option by which no request is signed.
        accounts: Variables with the account; empty where a bucket's name is enough.
    """

    endpoint: str
    endpoints: tuple[str, ...]
    anonymous: str
    accounts: tuple[str, ...] = ()


# By scheme. The names of options are those of the Rust library below obstore and the Delta library.
SERVICES: Mapping[str, Service] = {
    "gs": Service("google_base_url", ("GOOGLE_BASE_URL",), "google_skip_signature"),
    "az": Service(
        "azure_endpoint",
        ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
        "azure_skip_signature",
        ("AZURE_STORAGE_ACCOUNT_NAME",),
    ),
}


def cloud_options(place: CloudPlace) -> dict[str, str]:
    """What obstore and the Delta library are given besides what they find by themselves.

    Args:
        place: In a bucket or a container.

    Returns:
        Options by the names that both take; no secret is among them.

    Raises:
        AccessDenied: If Azure's account is not named anywhere, or Google has no credentials.
        InvalidOption: If the bucket has settings that only S3 has.
        UnsupportedUri: If the server's address has credentials in it.
    """
    service, bucket = SERVICES[place.scheme], bucket_settings(place.scheme, place.bucket)
    options: dict[str, str] = {}
    named = (os.environ.get(name) for name in service.endpoints)
    if endpoint := bucket.endpoint or next(filter(None, named), None):
        options[service.endpoint] = check_plain(endpoint)
        if endpoint.startswith("http://"):
            options["allow_http"] = "true"
    if bucket.anonymous:
        options[service.anonymous] = "true"
    elif place.scheme == "gs" and not os.environ.get("GOOGLE_SKIP_SIGNATURE"):
        check_google_credentials(str(place))
    if service.accounts:
        named = (os.environ.get(name) for name in service.accounts)
        account = bucket.account or next(filter(None, named), None)
        if not account:
            raise AccessDenied(
                str(place),
                "no storage account is named",
                "Set AZURE_STORAGE_ACCOUNT_NAME, or `account` of the container in lego-ray.toml.",
            )
        options["azure_storage_account_name"] = account
    return options


def cloud_client(place: CloudPlace) -> GCSStore | AzureStore:
    """The client for a bucket, in this process and its present environment.

    Args:
        place: In the bucket; the client's keys are those of the whole bucket. Call it within
            `cloud_errors`, which says so where obstore is not installed.

    Raises:
        AccessDenied: If Azure's account is not named anywhere.
        InvalidOption: If a setting cannot be used.
    """
    options = tuple(sorted(cloud_options(place).items()))
    return _client(place.scheme, place.bucket, options, os.getpid(), _environment())


def _environment() -> Environment:
    """What obstore reads of the environment: a change must not find a client made before it."""
    return tuple(
        sorted(
            (name, value)
            for name, value in os.environ.items()
            if name.startswith(_READ) or name.lower().endswith("_proxy")
        )
    )


@lru_cache(maxsize=16)
def _client(
    scheme: str, bucket: str, options: Environment, pid: int, environment: Environment
) -> GCSStore | AzureStore:
    where = f"{scheme}://{bucket}"
    from obstore.exceptions import BaseError
    from obstore.store import AzureStore, GCSStore

    config: Any = dict(options)
    client: Any = {**_CLIENT, **_trusted()}
    if config.pop("allow_http", ""):
        client["allow_http"] = True
    retries: Any = {"max_retries": ATTEMPTS - 1, "retry_timeout": timedelta(minutes=3)}
    make = GCSStore if scheme == "gs" else AzureStore
    try:
        return make(bucket, config=config, client_options=client, retry_config=retries)
    except (BaseError, ValueError, OSError) as error:
        said = " ".join(str(error).split("Debug source")[0].split()).rstrip(".")
        raise InvalidOption(
            where, f"its settings cannot be used: {said}", "docs/stores.md lists them."
        ) from error


def _trusted() -> dict[str, str]:
    """The certificates to trust besides those of the system."""
    for name in _BUNDLES:
        path = Path(os.environ.get(name) or "/")
        if path.is_file():
            return {"root_certificate": path.read_text(errors="replace")}
    return {}
