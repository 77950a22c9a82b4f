"""What lies under the sources of one scan: listed by several threads, in the order of the sources."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase

from lego_ray.errors import AccessDenied, ObjectNotFound
from lego_ray.formats.record import Refused
from lego_ray.sources.expand import expanded
from lego_ray.sources.find import (
    LONE_NAMES,
    Found,
    find,
    is_excluded,
    open_source,
    refused_folder,
)
from lego_ray.sources.spent import Spent
from lego_ray.storage.base import Denied, Store
from lego_ray.storage.uri import Place

# Small requests that wait for a store, so more than there are cores.
THREADS = 16


@dataclass(frozen=True, slots=True)
class Listing:
    """What lies under some sources.

    Attributes:
        stores: One per place that the sources stand for.
        found: What may be an adapter, and whether its source names it and not only a folder above it.
        refused: What cannot be read because of its name or its permissions.
        warnings: What was passed over, one sentence each without its full stop.
    """

    stores: tuple[Store, ...]
    found: tuple[tuple[Found, bool], ...]
    refused: tuple[Refused, ...]
    warnings: tuple[str, ...]


def list_sources(
    sources: Sequence[str | Place],
    spent: Spent,
    *,
    exclude: Sequence[str] = (),
    skip: Sequence[str | Place] = (),
    again: bool = False,
) -> Listing:
    """Lists what lies under some sources; see `headers.scan_sources`.

    Args:
        sources: Places, lists and collections, as `expand.expanded` takes them.
        spent: What the scan has listed so far.
        exclude: Glob patterns of what is left out.
        skip: Places not to look at, or their normalized URIs.
        again: Whether one that is gone is passed over.

    Raises:
        ScanLimitReached: If more lies there than a scan takes.
        ObjectNotFound: If a source does not exist.
        StorageError: If a source cannot be listed.
    """
    given = expanded(sources)
    skipped = {str(place) for place in skip}
    optional: set[str | Place] = {
        place for places in given.repositories.values() for place in places
    }
    wanted = [p for p in given.places if p not in optional or not _is_left_out(p, exclude)]

    closed: list[Refused] = []

    def listed(place: str | Place) -> tuple[Store, list[tuple[Found, bool]]]:
        store, only = open_source(place)

        def denied(key: str, error: AccessDenied) -> None:
            if not is_excluded(store, key, exclude):
                closed.append(refused_folder(store, key, error))

        here = []
        for each in _found(store, only, spent, again, denied):
            if not (each.lies_at(skipped) or each.is_meant(exclude)):
                spent.found(store.uri)
                here.append((each, is_named(each, only)))
        return store, here

    results: list[tuple[Store, list[tuple[Found, bool]]]]
    if len(wanted) < 2:
        results = [listed(place) for place in wanted]
    else:
        with ThreadPoolExecutor(max_workers=min(THREADS, len(wanted))) as threads:
            try:
                results = list(threads.map(listed, wanted))
            except BaseException:  # an interrupt too: a large bucket is listed for minutes
                spent.end()
                raise
    found: list[tuple[Found, bool]] = []
    refused = sorted(closed, key=lambda each: each.uri)
    for _, here in results:
        for each, named in here:
            if refusal := each.refusal():
                refused.append(refusal)
            else:
                found.append((each, named))
    return Listing(
        stores=tuple(store for store, _ in results),
        found=tuple(found),
        refused=tuple(refused),
        warnings=given.warnings,
    )


def _found(store: Store, only: str, spent: Spent, again: bool, denied: Denied) -> Iterator[Found]:
    """What lies under a source; nothing if it is gone and was scanned before."""
    try:
        yield from find(store, only, spent.listed, denied)
    except ObjectNotFound:
        if not again:
            raise


def _is_left_out(place: str | Place, exclude: Sequence[str]) -> bool:
    """Whether a repository of a collection is left out, which a list can do by leaving out its line."""
    name = str(place).partition("://")[2]
    names = (str(place), name, name.rpartition("/")[2])
    return any(fnmatchcase(each, pattern) for each in names for pattern in exclude)


def is_named(found: Found, only: str) -> bool:
    """Whether it is what its source names: the one file meant, or what the whole directory is."""
    if only or found.folder or not found.is_file:
        return bool(only) or not found.folder
    return found.weights is not None and found.name_of(found.weights) in LONE_NAMES
