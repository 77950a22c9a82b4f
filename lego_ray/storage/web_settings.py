"""Headers that a web site is asked with, such as the one that says who asks.

They are in the settings file, by host, and name a variable of the environment in place of the secret:

[sites."civitai.com"]
headers = { Authorization = "Bearer $CIVITAI_TOKEN" }
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping

from lego_ray.errors import AccessDenied, InvalidOption
from lego_ray.settings_file import find_settings_file
from lego_ray.storage.buckets import SiteSettings, settings_in

VARIABLE = "LEGO_RAY_SITES"
"""Holds the headers as JSON on workers, with the names of variables in them and no secrets."""

_NAME = re.compile(r"\$\{?(\w+)\}?")


def headers_for(host: str, where: str) -> dict[str, str]:
    """The headers to ask a host with.

    Args:
        host: Its name, in lower case, without a port.
        where: The file's address, for errors.

    Raises:
        AccessDenied: If a variable that a header names is not set.
        InvalidOption: If a header names no variable, or `VARIABLE` is not JSON.
        RecipeError: If the settings file is not as it must be.
    """

    def value_of(found: re.Match[str]) -> str:
        value = os.environ.get(found[1], "")
        if not value:
            raise AccessDenied(
                where, f"the settings of {host} name {found[1]}, which is not set", "Set it."
            )
        return value

    headers = _all().get(host, {})
    for name, text in headers.items():
        if not _NAME.search(text):  # which goes into no error, as it may be a secret
            raise InvalidOption(
                f'sites."{host}"',
                f"the header {name} names no variable of the environment",
                'Name one in place of the secret, for example "Bearer $TOKEN_OF_THE_SITE".',
            )
    return {name: _NAME.sub(value_of, text) for name, text in headers.items()}


def sites_as_text() -> str:
    """The headers of all sites, as `VARIABLE` holds them; empty if there are none.

    One that names no variable is left out: it may be a secret.
    """
    named = {
        host: {name: text for name, text in headers.items() if _NAME.search(text)}
        for host, headers in _all().items()
    }
    return json.dumps(named) if any(named.values()) else ""


def _all() -> Mapping[str, Mapping[str, str]]:
    given = os.environ.get(VARIABLE)
    if given is None:
        file = find_settings_file()
        sites: Mapping[str, SiteSettings] = {} if file is None else settings_in(file).sites
        return {host.lower(): site.headers for host, site in sites.items()}
    try:
        found: Mapping[str, Mapping[str, str]] = json.loads(given)
    except ValueError as error:
        raise InvalidOption(VARIABLE, f"it is not JSON: {error}") from error
    return found
