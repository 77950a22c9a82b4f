"""What a library has and lacks: its sources, the versions published, the rows of the catalog."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from lego_ray.catalog.adapters import (
    KnownAdapters,
    adapter_places,
    known_adapters,
)
from lego_ray.catalog.history import output_of
from lego_ray.catalog.tables import Catalog
from lego_ray.errors import BadInput, OutputExists
from lego_ray.library.entries import Find, plan_entries, with_kept_defaults
from lego_ray.library.places import LibraryPlaces
from lego_ray.merging.planned import Planned
from lego_ray.output.catalog_rows import adapter_rows, sightings_in
from lego_ray.output.write import is_merge_of, manifest_at, merge_there
from lego_ray.planning.grouped import Grouping
from lego_ray.planning.inventory import Inventory, check_strict, require_adapters
from lego_ray.planning.recipe_file import LibraryRecipe
from lego_ray.planning.source_changes import Attempt
from lego_ray.planning.tags import tagged
from lego_ray.sources.expand import places_of
from lego_ray.sources.headers import scan_sources
from lego_ray.sources.identities import Known, sightings_of, unexplained
from lego_ray.sources.readings import Readings
from lego_ray.storage.places import Place

# Of a plan's digest, in a directory's name: as many as lego-ray shows elsewhere.
DIGITS = 12


@dataclass(frozen=True, slots=True)
class Found:
    """What a look at the sources, the outputs and the catalog found. Nothing was written for it.

    Attributes:
        inventory: The zoo.
        rows: Its rows of `adapters`.
        n_new: How many of them the catalog does not have.
        planned: Every merge, at the place of its version.
        groupings: What some of them are from.
        done: Manifests of those that are published and recorded, by name.
        versions: Their versions in the catalog, by name, of those that are current.
        bytes_read: Bytes fetched.
        has_new_marks: Whether files were written again that hold what the catalog says they do.
        failed: Why an entry of the library gives no merge, by its name.
    """

    inventory: Inventory
    rows: list[dict[str, Any]]
    n_new: int
    planned: list[Planned]
    groupings: list[Grouping]
    done: Mapping[str, dict[str, Any]]
    versions: Mapping[str, int]
    bytes_read: int
    has_new_marks: bool = False
    failed: Mapping[str, BadInput] = field(default_factory=dict)

    @property
    def is_current(self) -> bool:
        """Whether nothing is to be done."""
        names = {each.recipe.name for each in self.planned}
        return not self.n_new and names <= self.versions.keys()


def look(
    library: LibraryRecipe,
    places: LibraryPlaces,
    catalog: Catalog,
    memory_budget: int,
    attempt: Attempt,
    find: Find,
    readings: Readings,
) -> Found:
    """Reads headers, manifests and the catalog; and what groups are found by."""
    sources: Sequence[str | Place] = library.sources
    if not sources:
        # Someone may have scanned the library itself, to merge from it.
        listed = adapter_places(catalog)
        sources = [s for s in listed if not any(s.is_inside(place) for place in places.outputs)]
    merges: list[dict[str, Any]] = []
    if catalog.exists("merges"):
        columns = ["merge_id", "name", "version", "output_uri", "recipe"]
        merges = catalog.read("merges", columns).to_pylist()
        library = with_kept_defaults(library, _recipes_of_last(merges, library))
    recorded = known_adapters(catalog)
    known, bytes_read = _known(library, recorded, merges), 0
    for _ in range(2):
        scan = scan_sources(
            sources,
            full_weights=library.full_weights,
            checkpoints=library.checkpoints,
            limits=library.scan_limits,
            base=library.base,
            known=known,
            again=attempt.is_again,
            readings=readings,
        )
        bytes_read += scan.bytes_read
        inventory = tagged(attempt.with_gone(scan.inventory), library.tagging, places_of(sources))
        check_strict(inventory, attempt.strict)
        require_adapters(inventory, map(str, sources))
        asked = plan_entries(
            library,
            inventory,
            places,
            memory_budget=memory_budget,
            find=find,
            strict=attempt.strict,
        )
        found = [_versioned(each, merges) for each in asked.merges]
        planned = [each for each, _ in found]
        # A refresh that was cut short may have published what the catalog knows nothing of.
        there = [manifest or manifest_at(each.place.open()) for each, manifest in found]
        more = [m for m in there if m and unexplained(inventory.adapters, m)]
        if not more:
            break
        known = known.and_of(s for manifest in more for s in sightings_of(manifest))
    rows = adapter_rows(inventory, datetime.now(UTC))
    done: dict[str, dict[str, Any]] = {}
    versions: dict[str, int] = {}
    for each, manifest in found:
        if manifest is None:
            try:
                manifest = _published(each, each.place)
            except OutputExists as error:  # what is there is another's, or a file of it is damaged
                if attempt.strict or len(planned) == 1:
                    raise
                asked.failed[each.recipe.name] = error
                continue
        rows_of = {m["merge_id"]: m["version"] for m in merges if m["name"] == each.recipe.name}
        if manifest is None or manifest["merge_id"] not in rows_of:
            continue
        done[each.recipe.name] = manifest
        if rows_of[manifest["merge_id"]] == max(rows_of.values()):
            versions[each.recipe.name] = rows_of[manifest["merge_id"]]
    return Found(
        inventory,
        rows,
        recorded.count_unrecorded(rows),
        [each for each in planned if each.recipe.name not in asked.failed],
        asked.groupings,
        done,
        versions,
        bytes_read,
        recorded.has_new_marks(rows),
        asked.failed,
    )


def _known(
    library: LibraryRecipe, recorded: KnownAdapters, merges: Sequence[Mapping[str, Any]]
) -> Known:
    """What the catalog says of adapters; where an earlier release wrote it, what manifests say too."""
    seen = recorded.seen()
    known = sightings_in(seen)
    if all(row["mark"] for row in seen):
        return known
    last = {output_of(row) for row in _last_of_each(merges, library).values()}
    return known.and_of(
        s for place in sorted(last, key=str) for s in sightings_of(manifest_at(place.open()))
    )


def _last_of_each(
    merges: Sequence[Mapping[str, Any]], library: LibraryRecipe
) -> dict[str, Mapping[str, Any]]:
    """The current merge of each name that a library's entries, or their groups, may have."""
    names = tuple(entry.recipe.name for entry in library.entries)
    found: dict[str, Mapping[str, Any]] = {}
    for row in sorted(merges, key=lambda row: row["version"]):
        if row["name"].startswith(names):
            found[row["name"]] = row
    return found


def _recipes_of_last(
    merges: Sequence[Mapping[str, Any]], library: LibraryRecipe
) -> dict[str, list[dict[str, Any]]]:
    """What the current merges of each entry, or of its groups, were made by; by the entry's name."""
    found: dict[str, list[dict[str, Any]]] = {}
    last = _last_of_each(merges, library)
    for entry in library.entries:
        if entry.recipe.by_default:
            of_group = re.compile(rf"{re.escape(entry.recipe.name)}-[0-9]+")
            found[entry.recipe.name] = [
                json.loads(row["recipe"])
                for name, row in last.items()
                if (of_group.fullmatch(name) if entry.groups else name == entry.recipe.name)
            ]
    return found


def _versioned(
    each: Planned, merges: Sequence[Mapping[str, Any]]
) -> tuple[Planned, dict[str, Any] | None]:
    """A merge at the place of its version, and its manifest if it was made already, at that place.

    That may be by `build`, or by an earlier release, which named it after more.
    """
    mine = [row for row in merges if row["name"] == each.recipe.name]
    last = max(mine, key=lambda row: row["version"], default=None)
    place = each.place.join(each.plan.digest[:DIGITS])
    named = (*each.plan.earlier, each.plan.former)
    others = [each.place.join(digest[:DIGITS]) for digest in named if digest]
    was = None if last is None else output_of(last)
    if was is not None and was.is_inside(each.place):
        others.append(was)
    for other in (each.place, place, *others):
        with contextlib.suppress(OutputExists):  # a former one, or what is not lego-ray's
            if manifest := _published(each, other):
                return replace(each, place=other), manifest
    if was is not None and was.is_inside(each.place) and _is_at(each, was):
        return replace(each, place=was), None
    return replace(each, place=place), None


def _published(each: Planned, place: Place) -> dict[str, Any] | None:
    there = merge_there(place.open(), each.plan)
    return there.manifest if there and there.is_whole else None


def _is_at(each: Planned, place: Place) -> bool:
    """Whether a merge's manifest is at a place, so that a file it lost is written again there."""
    manifest = manifest_at(place.open())
    return manifest is not None and is_merge_of(manifest, each.plan)
