"""All that a refresh depends on, as listings show it: one digest, for a few requests and no reads.

Of two refreshes at one digest, the second finds what the first found. The digest is of marks (ETags,
sizes, times, inodes), which only say that nothing has to be looked at again: what an adapter is and
whether a merge is current is decided by content, by the refresh that looked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from lego_ray.errors import LegoRayError
from lego_ray.library.places import RefreshPlaces
from lego_ray.output.checkpoints.run_folder import (
    READINGS_FOLDER,
    REFRESH_FOLDER,
    UNCHANGED_FOLDER,
)
from lego_ray.output.manifest import versions
from lego_ray.planning.recipe import digest_of
from lego_ray.planning.recipe_file import LibraryRecipe
from lego_ray.sources.listing import list_sources
from lego_ray.sources.readings import marks_of
from lego_ray.sources.spent import Spent
from lego_ray.storage.base import ObjectInfo
from lego_ray.storage.places import Place
from lego_ray.storage.uri import parse_uri

# Changes whenever the digest is of something else, or what is kept by it is.
_SCHEME = "lego-ray library state 1"
# The tables that say which adapters and merges are known.
_TABLES = ("adapters", "merges")
# Parts of names of SQL functions that give something else at another time. A condition that has one of
# them by chance only costs a full look.
_MOVING = re.compile(r"now|current|today|date|time|age|random|uuid|scanned", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class State:
    """The state of a library, its sources and its catalog.

    Attributes:
        digest: Hex sha256 over it.
        kept: What refreshes kept in the library's folder for that, by key.
    """

    digest: str
    kept: Mapping[str, ObjectInfo]


def state_of(
    library: LibraryRecipe, places: RefreshPlaces, *, memory_budget: int, strict: bool
) -> State | None:
    """Lists what a refresh depends on; reads no adapter, no manifest and no table.

    Args:
        library: The library.
        places: Its places.
        memory_budget: As for `run_refresh`.
        strict: As for `run_refresh`.

    Returns:
        None if a listing cannot tell: the sources are those of the catalog, a condition depends on the
        time, someone is or was at the library, or a place cannot be listed.
    """
    if not library.sources or any(_MOVING.search(entry.where) for entry in library.entries):
        return None
    try:
        outputs = list(_infos(places.output))
        if any(info.key.startswith(REFRESH_FOLDER) for info in outputs):
            return None
        kept = {info.key: info for info in outputs if info.key.startswith(UNCHANGED_FOLDER)}
        ours = (UNCHANGED_FOLDER, READINGS_FOLDER)
        listed = {
            "output": [info.mark for info in outputs if not info.key.startswith(ours)],
            "own": {name: _marks(place) for name, place in places.own.items()},
            "catalog": {name: _marks(_log(places.catalog, name)) for name in _TABLES},
            "sources": list(_sources(library)),
            "base": _marks(parse_uri(library.base)) if library.base else [],
        }
    except LegoRayError:  # whoever looks meets it again, and says it
        return None
    asked = {"memory_budget": memory_budget, "strict": strict, "versions": versions()}
    at = [str(places.output), str(places.catalog), {n: str(p) for n, p in places.own.items()}]
    return State(digest_of([_SCHEME, repr(library), at, asked, listed]), kept)


def _sources(library: LibraryRecipe) -> Iterator[object]:
    listing = list_sources(library.sources, Spent(library.scan_limits))
    for found, named in listing.found:
        yield [named, *marks_of(found)]
    yield [[refused.uri, refused.reason] for refused in listing.refused]
    yield listing.warnings


def _log(catalog: Place, table: str) -> Place:
    return catalog.join(f"{table}/_delta_log")


def _infos(place: Place) -> Iterable[ObjectInfo]:
    return place.open().list()


def _marks(place: Place) -> list[object]:
    """Marks of everything at a place, and the commit that a repository is at."""
    store = place.open()
    marks: list[object] = [info.mark for info in store.list()]
    return [*marks, store.revision]
