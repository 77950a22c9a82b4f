"""Garbage collection: what merges left behind and no catalog row refers to; a dry run unless asked."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from os import PathLike
from pathlib import Path
from typing import Any

from lego_ray.arguments import checked
from lego_ray.audit.leftovers import (
    Kept,
    References,
    Waste,
    directories_of,
    examine,
    look_again,
    references_of,
)
from lego_ray.audit.record import Garbage
from lego_ray.audit.remains import Remains, find_remains, remove_remains
from lego_ray.catalog.opening import check_before_writing, open_catalog, store_of
from lego_ray.catalog.upkeep.durations import KEPT, check_long_enough, parse_duration
from lego_ray.catalog.upkeep.leftovers import find_leftovers, remove_leftovers
from lego_ray.errors import InvalidOption, ObjectNotFound
from lego_ray.storage.base import ObjectInfo, Store
from lego_ray.storage.places import FilePlace
from lego_ray.storage.uri import parse_uri

# Small reads that wait for a store.
THREADS = 16


@checked
def collect_garbage(
    catalog: str | PathLike[str],
    root: str | PathLike[str],
    *,
    older_than: str | timedelta = KEPT,
    delete: bool = False,
    force: bool = False,
) -> Garbage:
    """Finds what merges left below a root that no row of a catalog refers to, and deletes it if asked.

    That is: published outputs that are neither recorded nor the source of a recorded merge; what
    publishing left when it was cut short; finished tasks of runs that were given up, and of merges
    published since; details in the catalog of merges that were never published; and, below the root and
    in the catalog, what processes that were killed left: probes, leases, files being written. An output
    that is recorded only in another catalog is not referred to by this one.

    Only files lego-ray wrote are touched: those a manifest lists, as long as none of them was changed,
    and those of a run's folder. A directory with a file younger than `older_than` may be of a running
    merge and is left alone; so is what links lead to.

    Args:
        catalog: The catalog.
        root: A directory or `s3://bucket/prefix`, looked through with all that is below it.
        older_than: Age below which everything is left alone: a duration, or text such as `7d` or `36h`.
        delete: Whether to delete what is found. Without it nothing is changed.
        force: Whether an age below a day is meant.

    Returns:
        What was found; see `Garbage`, which is read like a dictionary too.

    Raises:
        CatalogNotFound: If nothing was ever merged into this catalog: then all would be garbage.
        ObjectNotFound: If there is no such root.
        InvalidOption: If the age is too short, or the root cannot be written.
        StorageError: If a store could not be reached or refused access.
    """
    age = parse_duration("--older-than", older_than)
    check_long_enough("--older-than", age, force)
    opened = open_catalog(catalog)
    references = references_of(opened)
    store = _writable(root)
    cutoff = datetime.now(UTC) - age
    listed = list(store.list())
    directories = directories_of(listed)
    _check_there(store, directories)
    with ThreadPoolExecutor(max_workers=THREADS) as threads:
        looked = list(threads.map(lambda d: examine(store, d, references, cutoff), directories))
    found = [each for each in looked if isinstance(each, Waste)]
    kept = [each for each in looked if isinstance(each, Kept)]
    remains = _find_remains(store, listed, store_of(opened), cutoff)
    details, unseen = find_leftovers(opened, age)
    rows_deleted = 0
    if delete:
        if details:
            check_before_writing(opened)
            rows_deleted = remove_leftovers(opened, details)
        # Merges recorded since are none of it.
        references = references_of(opened)
        gone = [_delete(store, waste, references, cutoff) for waste in found]
        kept += [each for each in gone if isinstance(each, Kept)]
        found = [each for each in gone if isinstance(each, Waste)]
        remains = [(where, remove_remains(where, each)) for where, each in remains]
        remains = [(where, each) for where, each in remains if each.infos]
    outputs = [_told(store, waste) for waste in found]
    outputs += [_told_of(where, each) for where, each in remains]
    return Garbage(
        catalog=opened.uri,
        root=store.uri,
        deleted=delete,
        outputs=tuple(outputs),
        kept=tuple(
            {"output": str(store.place.join(k.directory.folder)), "reason": k.reason} for k in kept
        ),
        details=tuple(
            {"table": each.table, "merge_id": each.merge_id, "rows": each.rows} for each in details
        ),
        rows_deleted=rows_deleted,
        unseen=tuple(unseen),
        files=sum(each["files"] for each in outputs),
        bytes=sum(each["bytes"] for each in outputs),
    )


def _find_remains(
    store: Store, listed: Sequence[ObjectInfo], tables: Store, cutoff: datetime
) -> list[tuple[Store, Remains]]:
    """What was left below the root and in the catalog, each with the store it is in."""
    found = [(store, each) for each in find_remains(store, listed, cutoff)]
    seen = {store.place.join(info.key) for _, each in found for info in each.infos}
    for each in find_remains(tables, tables.list(), cutoff, catalog=True):
        if not any(tables.place.join(info.key) in seen for info in each.infos):
            found.append((tables, each))
    return found


def _writable(root: str | PathLike[str]) -> Store:
    place = parse_uri(root)
    if place.is_read_only:
        raise InvalidOption("--root", f"{place} cannot be written", "Give a directory or s3://.")
    return place.open()


def _check_there(store: Store, directories: Sequence[object]) -> None:
    root = store.place
    if not directories and isinstance(root, FilePlace) and not Path(root.path).is_dir():
        raise ObjectNotFound(store.uri, "there is no such directory", "Check --root.")


def _delete(store: Store, waste: Waste, references: References, cutoff: datetime) -> Waste | Kept:
    """Deletes what was found, unless something happened to it since."""
    now = look_again(store, waste)
    if now is None:
        return Kept(waste.directory, "something was written or deleted there meanwhile")
    again = examine(store, now, references, cutoff, hashed=True)
    if not isinstance(again, Waste):
        return again or Kept(waste.directory, "it was recorded meanwhile")
    for name in again.names:
        store.delete(again.directory.key(name))
    return again


def _told(store: Store, waste: Waste) -> dict[str, Any]:
    newest = waste.directory.newest
    return {
        "output": str(store.place.join(waste.directory.folder)),
        "kind": waste.kind,
        "name": waste.name,
        "merge_id": waste.merge_id,
        "files": len(waste.names),
        "bytes": waste.n_bytes,
        "modified_at": newest.isoformat(timespec="seconds") if newest else None,
    }


def _told_of(store: Store, remains: Remains) -> dict[str, Any]:
    newest = remains.newest
    return {
        "output": str(store.place.join(remains.folder)),
        "kind": remains.kind,
        "name": "",
        "merge_id": None,
        "files": len(remains.infos),
        "bytes": sum(info.size for info in remains.infos),
        "modified_at": newest.isoformat(timespec="seconds") if newest else None,
    }
