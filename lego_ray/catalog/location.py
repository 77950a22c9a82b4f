"""Where tables are, and how the Delta library reaches them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from lego_ray.errors import InvalidOption, UnsupportedUri

if TYPE_CHECKING:
    from deltalake import DeltaTable

# The Delta library decodes such a path once too often, and then looks elsewhere.
_PERCENT_CODE = re.compile(r"%[0-9A-Fa-f]{2}")
# Of a path on disk it makes the name of a host, which may not have these; it ends the process then.
_NOT_ON_DISK = frozenset("[]^|\\")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_HINT = "Give a catalog path without it; the path of the output may have it."
# Options by which the caller has chosen how S3 commits are kept apart.
_COMMIT_OPTIONS = frozenset({"aws_conditional_put", "conditional_put", "aws_s3_locking_provider"})


def table_uri(uri: str, table: str) -> str:
    """Joins a catalog's URI and a table's name.

    Args:
        uri: The catalog's.
        table: A key of `TABLES`.

    Raises:
        InvalidOption: If the URI is empty.
        UnsupportedUri: If the Delta library would write to another place, or fail.
    """
    if not uri:
        raise InvalidOption("--catalog", "the URI is empty")
    scheme, separator, _ = uri.partition("://")
    if separator and scheme != "file":
        path = uri.rstrip("/")
    else:
        local = unquote(urlsplit(uri).path) if separator else uri
        path = str(Path(local).expanduser().absolute())
        if bad := sorted(_NOT_ON_DISK & set(path)):
            raise UnsupportedUri(uri, f"a catalog's path on disk cannot have {bad[0]} in it", _HINT)
    if found := _PERCENT_CODE.search(path):
        raise UnsupportedUri(uri, f"a catalog's path cannot have a percent code, {found[0]}", _HINT)
    if _CONTROL.search(path):
        raise UnsupportedUri(uri, "a catalog's path cannot have control characters", _HINT)
    return f"{path}/{table}"


def delta_uri(uri: str) -> str:
    """The same place as the Delta library takes it: it reads a URI on S3 as a URL.

    Args:
        uri: Of a table, as `table_uri` gives it.
    """
    scheme, separator, place = uri.partition("://")
    return f"{scheme}://{quote(place)}" if separator else uri


def directory_of(handle: DeltaTable) -> str:
    """Where an open table is; the Delta library writes the directory as a URL."""
    return unquote(handle.table_uri.rstrip("/")).removeprefix("file://")


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
