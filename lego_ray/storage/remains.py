"""What a process that was killed leaves in a store, apart from what its work was: found, and removed.

None of it is ever read again: probes of a store, files that had no name of their own yet, and signs of
life of leases. All of it exists for seconds, or is replaced every few seconds while its writer lives.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from lego_ray.errors import StorageError
from lego_ray.storage.base import HasUnfinished, ObjectInfo, Store
from lego_ray.storage.file_walk import TEMPORARY, described
from lego_ray.storage.links import lies_inside
from lego_ray.storage.places import FilePlace

PROBE = ".lego-ray-probe-"
"""How the names of probes start; see `probe`."""

# Long after any process that wrote one is done with it.
OLD = timedelta(days=1)

_PROBE = re.compile(rf"{re.escape(PROBE)}[0-9a-f]{{32}}")
_TEMPORARY = re.compile(rf"{re.escape(TEMPORARY)}[0-9a-f]{{16}}")


def is_probe(key: str) -> bool:
    """Whether an object is a probe of a store."""
    return _PROBE.fullmatch(key.rpartition("/")[2]) is not None


def is_temporary(key: str) -> bool:
    """Whether a file is one that was being written, and had no name of its own yet."""
    return _TEMPORARY.fullmatch(key.rpartition("/")[2]) is not None


def temporaries(store: Store, folder: str = "", *, below: bool = True) -> Iterator[ObjectInfo]:
    """Yields what was being written; a listing leaves it out.

    Disks have such files, and stores that send large objects under another name first.

    Args:
        store: The store.
        folder: Look there; the root if empty. Links are not followed.
        below: Whether to look in the directories below it too.
    """
    if isinstance(store, HasUnfinished):
        for info in store.unfinished(folder):
            if below or "/" not in info.key.removeprefix(f"{folder}/" if folder else ""):
                yield info
        return
    place = store.place
    if not isinstance(place, FilePlace):
        return
    root = Path(place.path)
    for here, directories, names in os.walk(root / folder):
        if not below:
            directories.clear()
        for name in sorted(filter(is_temporary, names)):
            path = Path(here, name)
            with contextlib.suppress(OSError):
                entry = path.lstat()
                if stat.S_ISREG(entry.st_mode):
                    yield described(path.relative_to(root).as_posix(), entry)


def remove(store: Store, key: str) -> None:
    """Removes one object or file of these kinds, if it lies in the store itself.

    Args:
        store: The store.
        key: The object's or file's, below the root.

    Raises:
        StorageError: If the store refuses.
    """
    if not lies_inside(store, key):
        return
    if is_temporary(key) and store.place.is_local:  # such a store refuses such a key
        path = Path(store.uri, key)
        with contextlib.suppress(OSError):
            path.unlink()
            for above in path.parents[: key.count("/")]:  # as a store's own delete does
                above.rmdir()
        return
    store.delete(key)


def sweep(store: Store, folders: tuple[str, ...], now: datetime) -> None:
    """Removes what was left at a root longer than `OLD` ago, as far as the store lets it.

    Args:
        store: The root.
        folders: Folders of ours in it, in which files may have been being written.
        now: The store's time.
    """
    with contextlib.suppress(StorageError):
        found = [info for info in store.list(PROBE) if is_probe(info.key)]
        found += temporaries(store, below=False)
        found += [info for folder in folders for info in temporaries(store, folder)]
        for info in found:
            if info.modified_at is not None and now - info.modified_at > OLD:
                remove(store, info.key)
