"""What a place that is written in a form of others, or with a slash too few, is meant to be."""

from __future__ import annotations

import re
from collections.abc import Collection

from lego_ray.errors import UnsupportedUri

_FEW_SLASHES = re.compile(r"([A-Za-z][A-Za-z0-9]*):(?!//)/*([^/].*)", re.DOTALL)
# Buckets at AWS as links name them: in the host, or in the path.
_S3_HOST = re.compile(r"(?:(.+)\.)?s3(?:[.-][a-z0-9-]+)*\.amazonaws\.com", re.IGNORECASE)


def check_slashes(text: str, schemes: Collection[str]) -> None:
    """Passes a path, unless it begins as a URI does; a folder of that name is hardly ever meant.

    Args:
        text: What is taken for a path.
        schemes: Those of URIs.

    Raises:
        UnsupportedUri: If it is a URI without both slashes, such as `s3:/bucket`.
    """
    match = _FEW_SLASHES.fullmatch(text)
    scheme = match[1].lower() if match else ""
    if match and scheme in schemes:
        meant = f"{scheme}://{'/' if scheme == 'file' else ''}{match[2]}"
        hint = f"Give {meant}. For a path on disk of that name, give ./{text}."
        raise UnsupportedUri(text, f"there is no // after {match[1]}:", hint)


def on_s3(scheme: str, rest: str) -> str:
    """The `s3://` form of a link to AWS; empty for any other URI.

    Args:
        scheme: The URI's.
        rest: What comes after `://`.
    """
    host, _, path = rest.partition("/")
    match = _S3_HOST.fullmatch(host.partition(":")[0])
    if scheme not in ("http", "https") or match is None:
        return ""
    return f"s3://{match[1]}/{path}" if match[1] else f"s3://{path}"
