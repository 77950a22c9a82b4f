"""Where tables are, and how the Delta library is told to reach them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from lego_ray.errors import InvalidOption

# Options by which the caller has chosen how S3 commits are kept apart.
_COMMIT_OPTIONS = frozenset({"aws_conditional_put", "conditional_put", "aws_s3_locking_provider"})


def table_uri(uri: str, table: str) -> str:
    """Joins a catalog's URI and a table's name.

    Args:
        uri: The catalog's.
        table: A key of `TABLES`.

    Raises:
        InvalidOption: If the URI is empty, or a path that the Delta library would misread.
    """
    if not uri:
        raise InvalidOption("--catalog", "the URI is empty")
    scheme, separator, _ = uri.partition("://")
    if separator and scheme != "file":
        path = uri.rstrip("/")
    else:
        local = unquote(urlsplit(uri).path) if separator else uri
        path = str(Path(local).expanduser().absolute())
        # The library decodes such a path, then does not find it.
        if re.search(r"%[0-9A-Fa-f]{2}", path):
            raise InvalidOption(uri, "a catalog's path may not hold a percent code")
    return f"{path}/{table}"


def delta_options(uri: str, options: Mapping[str, str]) -> dict[str, str]:
    """Completes the Delta library's options.

    S3 commits are create-only puts unless the caller chose otherwise: the one thing that S3
    servers agree on, and it needs no lock table.

    Args:
        uri: The catalog's.
        options: What the caller gave.
    """
    complete = dict(options)
    if uri.startswith(("s3://", "s3a://")) and not _COMMIT_OPTIONS & {k.lower() for k in options}:
        complete["aws_conditional_put"] = "etag"
    return complete
