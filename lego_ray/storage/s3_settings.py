"""The one place that makes the settings of all S3 clients: boto3's, the Delta library's and Arrow's.

boto3 finds them, as it does everywhere, and the others are given what it found. By themselves they read
other variables and files, and would then work where boto3 fails, or fail where it works.
"""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from lego_ray.errors import InvalidOption, UnsupportedUri, redacted

if TYPE_CHECKING:
    import botocore.session
    from mypy_boto3_s3 import S3Client

# Names of AWS's own endpoints end in one of these.
_AWS = (".amazonaws.com", ".amazonaws.com.cn", ".amazonaws.eu", ".api.aws")
CHECKSUM_SETTINGS = ("request_checksum_calculation", "response_checksum_validation")
_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
# Read if AWS_CA_BUNDLE is not set: boto3 reads the first, the Delta library the second.
_OTHER_BUNDLES = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")


@dataclass(frozen=True, slots=True)
class S3Settings:
    """What every S3 client of a process has in common, keys excepted.

    Attributes:
        endpoint: The server's address, without a slash at its end.
        region: The region to sign for.
        style: `virtual`, `path` or `auto`: whether the bucket is in the host or in the path.
        ca_bundle: Path of a PEM file with the certificates to trust; empty for the usual ones.
        proxy: Address of the proxy; empty to reach the server directly.
    """

    endpoint: str
    region: str
    style: str
    ca_bundle: str
    proxy: str

    @property
    def is_aws(self) -> bool:
        """Whether the server is AWS itself."""
        return is_aws(self.endpoint)

    @property
    def needs_endpoint(self) -> bool:
        """Whether the endpoint is another than the one that follows from the region."""
        return self.endpoint not in (
            "https://s3.amazonaws.com",
            *(f"https://s3.{self.region}.{rest}" for rest in ("amazonaws.com", "amazonaws.com.cn")),
        )

    def is_virtual(self, bucket: str) -> bool:
        """Whether boto3 puts a bucket into the host.

        Args:
            bucket: Its name. A certificate for `*.host` is not valid for a name with dots.
        """
        parts = urlsplit(self.endpoint)
        if self.style == "path" or _is_address(parts.hostname or ""):
            return False
        if "." in bucket and parts.scheme == "https":
            return False
        return self.is_aws or self.style == "virtual"


def settings_of(client: S3Client, core: botocore.session.Session) -> S3Settings:
    """Reads the settings that boto3 found.

    Args:
        client: Its client.
        core: The session of botocore that the client was made by.

    Raises:
        InvalidOption: If the file of certificates cannot be used.
    """
    # boto3's name for "none was set", which is not a region to sign for, nor a part of a host.
    endpoint = client.meta.endpoint_url.rstrip("/").replace(".aws-global.", ".us-east-1.")
    region = client.meta.region_name
    # The attribute is made at run time, from what was configured.
    style = (getattr(client.meta.config, "s3", None) or {}).get("addressing_style") or "auto"
    return S3Settings(
        endpoint=endpoint,
        region="us-east-1" if region in ("", "aws-global") else region,
        style=style,
        ca_bundle=ca_bundle(core),
        proxy=_proxy(endpoint),
    )


def is_aws(endpoint: str) -> bool:
    """Whether an address is one of AWS itself; true of an empty one, for which boto3 takes AWS."""
    host = urlsplit(endpoint).hostname or ""
    return not endpoint or host.endswith(_AWS)


def ca_bundle(core: botocore.session.Session) -> str:
    """Path of the PEM file with the certificates to trust; empty for the usual ones.

    AWS_CA_BUNDLE, `ca_bundle` of the profile, REQUESTS_CA_BUNDLE, SSL_CERT_FILE: the first that is set.

    Args:
        core: The session of botocore.

    Raises:
        InvalidOption: If the file that AWS was configured with is missing or has no certificates.
    """
    chosen = core.get_config_variable("ca_bundle")
    if not chosen:
        others = (os.environ.get(name, "") for name in _OTHER_BUNDLES)
        return next((path for path in others if Path(path).is_file()), "")
    try:
        there = Path(chosen).stat()
        _check_bundle(chosen, (there.st_ino, there.st_size, there.st_mtime_ns))
    except (OSError, ssl.SSLError) as error:
        raise InvalidOption(
            "AWS_CA_BUNDLE",
            f"{chosen} cannot be used: {error.strerror or error}",
            "Give a PEM file with the certificates of the authorities to trust. On a cluster, each "
            "node needs it at the same path.",
        ) from error
    return str(chosen)


@lru_cache(maxsize=8)
def _check_bundle(path: str, file: tuple[int, int, int]) -> None:
    """Reads a file of certificates. A usual one takes 30 ms, and each table that is opened asks.

    Args:
        path: Where it is.
        file: Which file that was: what changes when it is replaced.

    Raises:
        OSError: If it cannot be read.
        ssl.SSLError: If it holds no certificate.
    """
    ssl.create_default_context(cafile=path)


def chosen_checksums(core: botocore.session.Session) -> bool:
    """Whether the user has said when checksums are sent and verified.

    Args:
        core: The session of botocore.
    """
    in_file = core.get_scoped_config()
    return any(os.environ.get(f"AWS_{n.upper()}") or in_file.get(n) for n in CHECKSUM_SETTINGS)


def check_way(endpoint: str) -> None:
    """Passes a server's address, and that of the proxy to it, if they can be reached by HTTP at all.

    Args:
        endpoint: The server's.

    Raises:
        UnsupportedUri: If it is of another scheme.
        InvalidOption: If the proxy's is malformed.
    """
    if urlsplit(endpoint).scheme not in ("http", "https"):
        problem = "the address of a server begins with neither http:// nor https://"
        raise UnsupportedUri(endpoint, problem, "Check AWS_ENDPOINT_URL.")
    proxy = ""
    try:
        proxy = _proxy(endpoint)
        if not proxy or (urlsplit(proxy).hostname and urlsplit(proxy).port != 0):
            return
    except ValueError:  # of the brackets around an address, or of a port
        pass
    raise InvalidOption(
        f"{urlsplit(endpoint).scheme.upper()}_PROXY",
        f"{redacted(proxy)!r} is not the address of a proxy",
        "Give one such as http://proxy.example:3128.",
    )


def check_keys(environment: Mapping[str, str]) -> None:
    """Passes keys of the environment that have no space or line break in them.

    A secret made from a file often ends with one. Requests are then signed wrongly, or cannot be sent.

    Args:
        environment: The variables.

    Raises:
        InvalidOption: If one has; it is named and not quoted.
    """
    for name in _KEYS:
        if re.search(r"[\s\x00-\x1f\x7f]", environment.get(name, "")):
            raise InvalidOption(
                name,
                "it has a space or a line break in it, which no key has",
                "Remove it. A secret of Kubernetes made with `echo` ends with one; use `echo -n`.",
            )


def _proxy(endpoint: str) -> str:
    """The proxy that boto3 reaches an address through; empty for none."""
    from botocore.utils import get_environ_proxies

    found: str = get_environ_proxies(endpoint).get(urlsplit(endpoint).scheme, "")
    if not found or "://" in found:
        return found
    return f"http://{found.removeprefix('//')}"


def _is_address(host: str) -> bool:
    with suppress(ValueError):
        ipaddress.ip_address(host)
        return True
    return False
