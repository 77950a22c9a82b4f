"""What the deltalake package needs to reach the bucket that boto3 or obstore reaches."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from lego_ray.errors import AccessDenied
from lego_ray.storage.buckets import BucketSettings, bucket_settings
from lego_ray.storage.cloud_client import cloud_options
from lego_ray.storage.places import CloudPlace, Place, S3Place
from lego_ray.storage.s3_client import s3_reach
from lego_ray.storage.s3_errors import s3_errors
from lego_ray.storage.s3_hints import NO_CREDENTIALS
from lego_ray.storage.s3_settings import S3Settings

if TYPE_CHECKING:
    from lego_ray.storage.s3_credentials import LiveCredentials

CA_FILE = "AWS_CA_BUNDLE"
"""Option with the path of the file of certificates. The Delta library takes no notice of it; it is for
Arrow's reader, which gets the same options."""

# The library looks for certificates nowhere but in the system and, with a proxy, in an option. So a
# proxy is named that is never asked, where there is none: `*` are all names, the rest all addresses.
_NO_PROXY = {"proxy_url": "http://no-proxy.invalid", "proxy_excludes": "*,0.0.0.0/0,::/0"}
# What the library would take from variables that boto3 has no notice of.
_NOT_BY_ENVIRONMENT = {
    "aws_skip_signature": "false",
    "aws_unsigned_payload": "false",
    "aws_request_payer": "false",
    "aws_virtual_hosted_style_request": "false",
}
# Variables from which the library would take a proxy by itself.
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")


def delta_storage_options(place: Place) -> dict[str, str]:
    """Gives deltalake the credentials and settings that boto3 finds for S3, and the settings of others.

    deltalake reads the environment and not the shared config files, profiles or roles that boto3
    knows, so they are resolved here and passed on. Temporary credentials are those of this moment:
    ask again for each table opened, and keep the result out of logs. On Google Cloud and Azure it finds
    credentials by itself, as obstore does: both are made of the same library.

    Args:
        place: Of a table or a catalog.

    Returns:
        `storage_options` for `DeltaTable` and `write_deltalake`; empty on disk and on the Hub.

    Raises:
        AccessDenied: If boto3 finds no credentials, or no account of Azure is named.
        InvalidOption: If the file of certificates, or a setting of the bucket, cannot be used.
    """
    if isinstance(place, CloudPlace):
        return cloud_options(place)
    if not isinstance(place, S3Place):
        return {}
    where = str(place)
    with s3_errors(where):
        bucket = bucket_settings(place.scheme, place.bucket)
        settings, found = s3_reach(bucket)
        keys = _keys(where, found, bucket)
    return {
        **_NOT_BY_ENVIRONMENT,
        **keys,
        "AWS_REGION": settings.region,
        # Commits are PUT with If-None-Match, so that no two writers win the same one.
        "aws_conditional_put": "etag",
        **_address(settings, place.bucket),
        **_way(settings),
        **_asked_for(bucket),
    }


def _keys(where: str, found: LiveCredentials | None, bucket: BucketSettings) -> dict[str, str]:
    """What requests are signed with."""
    if bucket.anonymous:
        return {"aws_skip_signature": "true"}
    if found is None:
        raise AccessDenied(where, "boto3 finds no credentials", NO_CREDENTIALS)
    keys = found.present()
    options = {
        "AWS_ACCESS_KEY_ID": keys.access_key or "",
        "AWS_SECRET_ACCESS_KEY": keys.secret_key or "",
    }
    return options | ({"AWS_SESSION_TOKEN": keys.token} if keys.token else {})


def _asked_for(bucket: BucketSettings) -> dict[str, str]:
    """What the bucket asks for with each request."""
    options = {"aws_request_payer": "true"} if bucket.requester_pays else {}
    if bucket.sse:
        options["aws_server_side_encryption"] = bucket.sse
    if bucket.sse_kms_key_id:
        options["aws_sse_kms_key_id"] = bucket.sse_kms_key_id
    return options


def _address(settings: S3Settings, bucket: str) -> dict[str, str]:
    """Where the server is, and whether the bucket is in its name."""
    options = {}
    endpoint = settings.endpoint
    if settings.is_virtual(bucket):
        options["aws_virtual_hosted_style_request"] = "true"
        parts = urlsplit(endpoint)
        endpoint = parts._replace(netloc=f"{bucket}.{parts.netloc}").geturl()
    if settings.needs_endpoint:
        options["AWS_ENDPOINT_URL"] = endpoint
        if endpoint.startswith("http://"):
            options["AWS_ALLOW_HTTP"] = "true"
    return options


def _way(settings: S3Settings) -> dict[str, str]:
    """The proxy and the certificates to trust."""
    options = {}
    if settings.proxy:
        options["proxy_url"] = settings.proxy
    elif settings.ca_bundle or any(name.lower() in _PROXIES for name in os.environ):
        options |= _NO_PROXY
    if settings.ca_bundle:
        options["proxy_ca_certificate"] = Path(settings.ca_bundle).read_text()
        options[CA_FILE] = settings.ca_bundle
    return options
