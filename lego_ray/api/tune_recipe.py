"""A recipe file as a search: its sources, its one merge, and its section `tune`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from lego_ray.catalog.adapters import adapter_places
from lego_ray.catalog.opening import open_catalog
from lego_ray.errors import RecipeError
from lego_ray.library.build import read_library
from lego_ray.library.entries import adapters_of
from lego_ray.library.places import read_places
from lego_ray.methods.names import MethodOptions
from lego_ray.options import keywords_of, renamed
from lego_ray.planning.arguments import output_place
from lego_ray.planning.inventory import Choose, Inventory, require_adapters
from lego_ray.planning.recipe_file import LibraryRecipe, MergeEntry
from lego_ray.planning.scan_limits import DEFAULT_LIMITS
from lego_ray.planning.tags import tagged
from lego_ray.sources.expand import places_of
from lego_ray.storage.buckets import BucketSettings, buckets_in_use
from lego_ray.storage.places import Place
from lego_ray.storage.uri import parse_uri
from lego_ray.tuning.precedence import asked_of
from lego_ray.tuning.section import read_section


@dataclass(frozen=True, slots=True)
class AskedSearch:
    """What a recipe file and flags ask of a search.

    Attributes:
        sources: Where the adapters are.
        choose: Takes those of the file's merge.
        options: Keywords of `tune`.
        output: Where the best merge goes.
        catalog: Where it is recorded; None for no catalog.
        buckets: Settings of single buckets on S3, by their names.
    """

    sources: tuple[str, ...]
    choose: Choose
    options: Mapping[str, Any]
    output: Place
    catalog: str | None
    buckets: Mapping[str, BucketSettings]


def asked_search(
    recipe: str, flags: Mapping[str, Any], *, output: str | None, catalog: str | None
) -> AskedSearch:
    """Reads a recipe file for a search.

    Args:
        recipe: The file.
        flags: The keywords that the call was given, which come before the file; none is None.
        output: Where the best merge goes, in place of what the file says; or None.
        catalog: Its catalog, in place of the file's; or None.

    Raises:
        RecipeError: If the file is not as it must be; every fault is named.
        BadInput: If neither the file nor the call says where the best merge goes.
        StorageError: If the file cannot be read.
    """
    library = read_library(parse_uri(recipe), recipe)
    _check_one_merge(library, recipe)
    entry = library.entries[0]
    section = read_section(library.tune or {}, recipe, has_base=bool(library.base))
    options = asked_of(_merge_of(library, entry), section, flags)
    recorded = catalog or library.catalog or None
    with buckets_in_use(library.buckets):
        sources = library.sources
        if not sources and recorded:
            sources = tuple(str(place) for place in adapter_places(open_catalog(recorded)))
        said = output or section.output
        place = output_place(said) if said else read_places(library).of_entry(entry)
    taking = replace(
        entry.recipe,
        exclude=tuple(options.get("exclude", ())),
        only_base=options.get("only_base", ""),
    )
    return AskedSearch(
        sources,
        _chooser(library, replace(entry, recipe=taking), sources),
        options,
        place,
        recorded,
        library.buckets,
    )


def _check_one_merge(library: LibraryRecipe, where: str) -> None:
    """Passes a file with one merge that a search can make.

    Raises:
        RecipeError: Otherwise.
    """
    entries = library.entries
    if len(entries) != 1:
        names = ", ".join(entry.recipe.name for entry in entries)
        fault = f"merges: tune needs a file with exactly one merge, and this one makes {names}"
        raise RecipeError(
            where, (f"{fault}; to search ranks, write tune: {{space: {{rank: [..]}}}}",)
        )
    faults = []
    if entries[0].groups:
        faults.append("merges[0].groups: tune makes one merge; leave groups out")
    if entries[0].site_ranks:
        faults.append("merges[0].sites: tune has one rank for all modules; leave rank out")
    if faults:
        raise RecipeError(where, tuple(faults))


def _merge_of(library: LibraryRecipe, entry: MergeEntry) -> dict[str, Any]:
    """What a file says of its merge, as keywords of `merge`."""
    given = dict(entry.given)
    given |= renamed(keywords_of(MethodOptions), given.pop("options", {}))
    limits = {
        each.name: asdict(library.scan_limits)[each.name]
        for each in fields(library.scan_limits)
        if getattr(library.scan_limits, each.name) != getattr(DEFAULT_LIMITS, each.name)
    }
    more = {"checkpoints": library.checkpoints, "scan_limits": limits, "base": library.base}
    return {**given, **{name: value for name, value in more.items() if value}}


def _chooser(library: LibraryRecipe, entry: MergeEntry, sources: tuple[str, ...]) -> Choose:
    def choose(inventory: Inventory) -> Inventory:
        require_adapters(inventory, sources)
        return adapters_of(entry, tagged(inventory, library.tagging, places_of(sources)))

    return choose
