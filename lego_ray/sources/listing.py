"""What lies under the sources of one scan: listed by several threads, in the order of the sources."""

from __future__ import annotations

import re
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
from lego_ray.storage.places import Place

# Small requests that wait for a store, so more than there are cores; of a store that is far, which
# takes ten times as long to answer, and of a disk.
FAR_THREADS, THREADS = 64, 16
# What lego-ray writes beside each merge; `output.manifest` says what is in it.
MERGE_MANIFEST = "lego_ray_manifest.json"
_SNAPSHOT = re.compile(r"(?P<repository>.*/models--[^/]+)/snapshots/[0-9a-f]{40}(?P<below>/.*)?")


@dataclass(frozen=True, slots=True)
class Listing:
    """What lies under some sources.

    Attributes:
        stores: One per place that the sources stand for.
        found: What may be an adapter, and whether its source names it and not only a folder above it.
        refused: What cannot be read because of its name or its permissions.
        warnings: What was passed over, one sentence each without its full stop.
        left_out: How many of what may be an adapter were left out as asked.
        idle: Patterns of what to leave out that match no name; they may be digits of an id.
    """

    stores: tuple[Store, ...]
    found: tuple[tuple[Found, bool], ...]
    refused: tuple[Refused, ...]
    warnings: tuple[str, ...]
    left_out: int = 0
    idle: tuple[str, ...] = ()


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
    matched: set[str] = set()
    left_out: set[str] = set()

    def is_left_out(each: Found) -> bool:
        if hit := [pattern for pattern in exclude if each.is_meant([pattern])]:
            matched.update(hit)
            left_out.add(each.uri)
        return bool(hit)

    wanted = []
    for place in given.places:
        hit = _leaving_out(place, exclude) if place in optional else []
        matched.update(hit)
        if not hit:
            wanted.append(place)

    closed: list[Refused] = []

    def listed(place: str | Place) -> tuple[Store, list[tuple[Found, bool]]]:
        store, only = open_source(place)

        def denied(key: str, error: AccessDenied) -> None:
            hit = [pattern for pattern in exclude if is_excluded(store, key, [pattern])]
            matched.update(hit)
            if not hit:
                closed.append(refused_folder(store, key, error))

        here = []
        for each in _found(store, only, spent, again, denied):
            if not (each.lies_at(skipped) or is_left_out(each)):
                spent.found(store.uri)
                here.append((each, is_named(each, only)))
        return store, here

    results: list[tuple[Store, list[tuple[Found, bool]]]]
    if len(wanted) < 2:
        results = [listed(place) for place in wanted]
    else:
        with ThreadPoolExecutor(max_workers=min(FAR_THREADS, len(wanted))) as threads:
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
        warnings=(
            *given.warnings,
            *_merges_among(found),
            *_snapshots_among(found),
        ),
        left_out=len(left_out),
        idle=tuple(pattern for pattern in dict.fromkeys(exclude) if pattern not in matched),
    )


def _merges_among(found: Sequence[tuple[Found, bool]]) -> Iterator[str]:
    """Warns of merges among adapters, which their own sources may be among, too."""
    for each, named in found:
        if MERGE_MANIFEST in each.beside and not named and len(found) > 1:
            yield (
                f"{each.uri} is a merge that lego-ray made ({MERGE_MANIFEST} lies beside it): if it is "
                "made of other adapters here, these count twice; --exclude leaves it out"
            )


def _found(store: Store, only: str, spent: Spent, again: bool, denied: Denied) -> Iterator[Found]:
    """What lies under a source; nothing if it is gone and was scanned before."""
    try:
        yield from find(store, only, spent.listed, denied)
    except ObjectNotFound:
        if not again:
            raise


def _snapshots_among(found: Sequence[tuple[Found, bool]]) -> Iterator[str]:
    """Warns of several snapshots of a repository in a cache of the Hub's."""
    snapshots: dict[tuple[str, str], list[str]] = {}
    for each, named in found:
        if not named and (match := _SNAPSHOT.fullmatch(each.uri)):
            snapshots.setdefault((match["repository"], match["below"]), []).append(each.uri)
    for uris in snapshots.values():
        if len(uris) > 1:
            yield (
                f"{' and '.join(uris)} are snapshots of one repository in a cache of the Hub, each of "
                "which is taken; give the one that is meant as the source, or leave the others out with "
                "--exclude"
            )


def _leaving_out(place: str | Place, exclude: Sequence[str]) -> list[str]:
    """The patterns that leave out a repository of a collection; a list leaves out its line instead."""
    name = str(place).partition("://")[2]
    names = (str(place), name, name.rpartition("/")[2])
    return [p for p in exclude if any(fnmatchcase(each, p) for each in names)]


def is_named(found: Found, only: str) -> bool:
    """Whether it is what its source names: the one file meant, or what the whole directory is."""
    if only or found.folder or not found.is_file:
        return bool(only) or not found.folder
    return found.weights is not None and found.name_of(found.weights) in LONE_NAMES
