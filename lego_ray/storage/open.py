"""Opens a store by its URI."""

from __future__ import annotations

import os

from lego_ray.storage.base import Store
from lego_ray.storage.uri import parse_uri


def open_store(uri: str | os.PathLike[str]) -> Store:
    """Opens the store at a URI, without touching disk or network yet; a place has `open`.

    Args:
        uri: A path, `file:///path`, `s3://bucket/prefix`, `gs://bucket/prefix`,
            `az://container/prefix`, or `hf://owner/name[@revision][/folder]`.

    Returns:
        A store whose keys lie below that URI.

    Raises:
        UnsupportedUri: If the scheme or the form is another.
    """
    return parse_uri(uri).open()
