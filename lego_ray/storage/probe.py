"""Finds out whether a store keeps the promise its writers rely on."""

from __future__ import annotations

import contextlib
import secrets

from lego_ray.errors import AlreadyExists, StorageError, UnsafeStore
from lego_ray.storage.base import Store
from lego_ray.storage.remains import PROBE, sweep

# Where a run writes beside an output.
_FOLDERS = (".lego-ray",)


def probe_create_only(store: Store) -> None:
    """Proves that a store refuses to create an object twice, and that it can be written.

    Some S3 servers take `If-None-Match` and ignore it; on those, two writers of one commit both
    believe they won. Writes one object of a few bytes under a name no one else has, tries to
    create it again, and deletes it. It also deletes such objects that killed runs left. Call it once for
    each root opened for writing.

    Args:
        store: Opened where outputs or tables will be written.

    Raises:
        UnsafeStore: If the second write was taken.
        ReadOnlyStore: If this kind of store cannot be written.
        AccessDenied: If the credentials do not allow writing or deleting there.
        ObjectNotFound: If there is no such bucket.
        StoreUnavailable: If the store cannot be reached.
    """
    key = f"{PROBE}{secrets.token_hex(16)}"
    store.create(key, b"first")
    try:
        store.create(key, b"second")
    except AlreadyExists:
        _sweep(store, key)
        return
    finally:
        store.delete(key)
    raise UnsafeStore(
        store.uri,
        "the store accepted a create-only write over an existing object, so two writers could both "
        "succeed and one commit would be lost without an error",
        "Write to a store that honors If-None-Match on PUT: AWS S3, Ceph RGW, MinIO, or a disk.",
    )


def _sweep(store: Store, mine: str) -> None:
    """Removes old leftovers; their age is measured against the time the store gives the probe."""
    with contextlib.suppress(StorageError):
        now = next((info.modified_at for info in store.list(mine)), None)
        if now is not None:
            sweep(store, _FOLDERS, now)
