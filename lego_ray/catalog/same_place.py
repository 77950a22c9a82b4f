"""Whether the Delta library writes where everything else of a catalog is read and written."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

import pyarrow as pa

from lego_ray.catalog.failures import explain
from lego_ray.catalog.location import delta_uri
from lego_ray.catalog.reading import write_file
from lego_ray.errors import CatalogError, ObjectNotFound
from lego_ray.storage.base import Store
from lego_ray.storage.remains import PROBE


def check_same_place(store: Store, options: Mapping[str, str]) -> None:
    """Writes a few bytes by the Delta library, reads them by our store, and deletes them.

    The two have separate S3 clients, which may take a path, an endpoint or a proxy differently. A disk
    is the same for both.

    Args:
        store: The catalog's.
        options: The Delta library's options for it.

    Raises:
        CatalogError: If the bytes are not where they should be.
        StorageError: If the store could not be reached, or refused to write.
    """
    if store.place.is_local:
        return
    from deltalake.fs import DeltaStorageHandler

    key, content = f"{PROBE}{secrets.token_hex(16)}", secrets.token_bytes(16)
    uri = store.uri
    try:
        with explain(uri):
            write_file(
                DeltaStorageHandler(delta_uri(uri), dict(options)), key, pa.py_buffer(content)
            )
        try:
            found = store.read(key)
        except ObjectNotFound:
            found = b""
    finally:
        store.delete(key)
    if found != content:
        raise CatalogError(
            uri,
            "the Delta library writes to another place than the rest of lego-ray",
            "Check AWS_ENDPOINT_URL and the proxy settings, or give another catalog.",
        )
