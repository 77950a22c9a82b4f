"""Whether what a store lists lies in it, or somewhere else that a link leads to."""

from __future__ import annotations

from pathlib import Path

from lego_ray.storage.base import Store
from lego_ray.storage.places import FilePlace


def lies_inside(store: Store, key: str) -> bool:
    """Tells whether an object is below its store's root itself, and not through a symbolic link.

    A listing follows links; whoever deletes must not. The root may be a link, as the user gave it.

    Args:
        store: The store.
        key: An object's key, or a folder's; empty for the root.
    """
    place = store.place
    if not isinstance(place, FilePlace):
        return True
    root = Path(place.path)
    return (root / key).resolve() == root.resolve() / key
