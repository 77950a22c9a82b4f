"""What a library has and lacks: its sources, the versions published, the rows of the catalog."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from lego_ray.catalog.adapters import adapter_places, count_unrecorded
from lego_ray.catalog.tables import Catalog
from lego_ray.errors import OutputExists
from lego_ray.execution.entries import Find, Planned, outputs_of, plan_entries
from lego_ray.execution.publishing.cataloguing import adapter_rows
from lego_ray.execution.publishing.publish import published_manifest
from lego_ray.execution.scanning import scan_sources
from lego_ray.execution.solving import check_strict
from lego_ray.planning.grouped import Grouping
from lego_ray.planning.inventory import Inventory, require_adapters
from lego_ray.planning.recipe_file import LibraryRecipe
from lego_ray.storage.open import open_store
from lego_ray.storage.uri import join, normalise_uri

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
    """

    inventory: Inventory
    rows: list[dict[str, Any]]
    n_new: int
    planned: list[Planned]
    groupings: list[Grouping]
    done: Mapping[str, dict[str, Any]]
    versions: Mapping[str, int]
    bytes_read: int

    @property
    def is_current(self) -> bool:
        """Whether nothing is to be done."""
        names = {each.recipe.name for each in self.planned}
        return not self.n_new and names <= self.versions.keys()


def look(
    library: LibraryRecipe, catalog: Catalog, memory_budget: int, strict: bool, find: Find
) -> Found:
    """Reads headers, manifests and the catalog; and what groups are found by."""
    places = [normalise_uri(place) for place in outputs_of(library, library.output)]
    sources: Sequence[str] = library.sources
    if not sources:
        # Someone may have scanned the library itself, to merge from it.
        listed = adapter_places(catalog)
        sources = [uri for uri in listed if not any(is_inside(uri, place) for place in places)]
    scan = scan_sources(sources, full_weights=library.full_weights, checkpoints=library.checkpoints)
    check_strict(scan.inventory, strict)
    require_adapters(scan.inventory, sources)
    rows = adapter_rows(scan.inventory, datetime.now(UTC))
    asked, groupings = plan_entries(
        library, scan.inventory, library.output, memory_budget=memory_budget, find=find
    )
    planned = [_versioned(each) for each in asked]
    merges: list[dict[str, Any]] = []
    if catalog.exists("merges"):
        merges = catalog.read("merges", ["merge_id", "name", "version"]).to_pylist()
    done: dict[str, dict[str, Any]] = {}
    versions: dict[str, int] = {}
    for each in planned:
        manifest = _published(each, each.output)
        rows_of = {m["merge_id"]: m["version"] for m in merges if m["name"] == each.recipe.name}
        if manifest is None or manifest["merge_id"] not in rows_of:
            continue
        done[each.recipe.name] = manifest
        if rows_of[manifest["merge_id"]] == max(rows_of.values()):
            versions[each.recipe.name] = rows_of[manifest["merge_id"]]
    return Found(
        scan.inventory,
        rows,
        count_unrecorded(catalog, rows),
        planned,
        groupings,
        done,
        versions,
        scan.bytes_read,
    )


def _versioned(each: Planned) -> Planned:
    """A merge at the place of its version; where `build` has made it already, that is its place."""
    with contextlib.suppress(OutputExists):  # a former one, or what is not lego-ray's
        if _published(each, each.output):
            return each
    return replace(each, output=join(each.output, each.plan.digest[:DIGITS]))


def _published(each: Planned, place: str) -> dict[str, Any] | None:
    return published_manifest(open_store(place), each.plan.digest, each.plan.marker)


def is_inside(place: str, folder: str) -> bool:
    """Whether a place is a folder or lies below it, both normalised."""
    return place == folder or place.startswith(f"{folder.rstrip('/')}/")
