"""Opens a store by its URI."""

from __future__ import annotations

import os

from lego_ray.storage.base import Store
from lego_ray.storage.file import FileStore
from lego_ray.storage.hub import HubStore
from lego_ray.storage.s3 import S3Store
from lego_ray.storage.uri import FileUri, S3Uri, parse_uri


def open_store(uri: str | os.PathLike[str]) -> Store:
    """Opens the store at a URI, without touching disk or network yet.

    Args:
        uri: A path, `file:///path`, `s3://bucket/prefix`, or `hf://owner/name[@revision][/folder]`.

    Returns:
        A store whose keys lie below that URI.

    Raises:
        UnsupportedUri: If the scheme or the form is another.
    """
    parsed = parse_uri(uri)
    if isinstance(parsed, FileUri):
        return FileStore(parsed.path)
    if isinstance(parsed, S3Uri):
        return S3Store(parsed.bucket, parsed.prefix)
    return HubStore(parsed.repo_id, parsed.revision, parsed.subfolder)
