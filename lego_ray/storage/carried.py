"""The settings of stores that travel from the driver of a run to its workers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from lego_ray.storage import web_settings
from lego_ray.storage.buckets import VARIABLE, settings_as_text

# Where servers are and how they are reached, beside the settings of buckets. No keys, tokens or
# profiles: a node has its own, such as those of a role, and what travels with a task can be read by
# others on the cluster.
NAMES = (
    *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"),
    *("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT"),
    *("AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION"),
    *("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
    *("GOOGLE_BASE_URL", "GOOGLE_SKIP_SIGNATURE", "AZURE_SKIP_SIGNATURE", "AZURE_USE_AZURE_CLI"),
    *("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
    *("HF_ENDPOINT", "HF_HUB_OFFLINE"),
)
# A node that lacks the file keeps its own setting.
_FILES = frozenset({"AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"})


def settings_here() -> dict[str, str]:
    """The settings of this process that travel; none that has a password in it."""
    found = {
        name: value
        for name in NAMES
        if (value := os.environ.get(name)) is not None and not urlsplit(value).password
    }
    more = {VARIABLE: settings_as_text(), web_settings.VARIABLE: web_settings.sites_as_text()}
    return found | {name: text for name, text in more.items() if text}


# What this process had before it was given settings, None for nothing.
_BEFORE: dict[str, str | None] = {}


def use_settings(settings: Mapping[str, str]) -> None:
    """Gives this process the settings of another; those that it was given before are taken back.

    Args:
        settings: What `settings_here` gave there. What is not among them stays as it is here.
    """
    for name, value in _BEFORE.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    _BEFORE.clear()
    for name, value in settings.items():
        if name not in _FILES or Path(value).is_file():
            _BEFORE[name] = os.environ.get(name)
            os.environ[name] = value
