"""Reads what may come from anyone, and so may be of any size."""

from __future__ import annotations

from lego_ray.errors import StorageError
from lego_ray.storage.base import Store


def read_at_most(store: Store, key: str, limit: int) -> bytes:
    """Reads one object whole, having asked for its size first.

    Args:
        store: The store.
        key: Its key.
        limit: Bytes.

    Raises:
        ObjectNotFound: If there is none.
        StorageError: If it is larger; it was not read.
    """
    size = store.stat(key).size
    if size > limit:
        raise StorageError(
            f"{store.uri}/{key}",
            f"it has {size} bytes, and one that lego-ray wrote has {limit} at most",
            "Another program wrote it, or it is damaged; move it away.",
        )
    return store.read(key)
