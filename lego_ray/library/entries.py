"""From a library's entries to its merges: which adapters each takes, and where it goes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import count
from typing import Any

from lego_ray.catalog.choosing import choose
from lego_ray.catalog.rows import conform
from lego_ray.errors import BadInput, InvalidOption, NoAdaptersFound, OutputExists
from lego_ray.library.places import LibraryPlaces
from lego_ray.merging.planned import Planned
from lego_ray.output.catalog_rows import adapter_rows
from lego_ray.output.write import manifest_at, written_at
from lego_ray.planning.base_models import agreed_base_model
from lego_ray.planning.group_options import GroupOptions
from lego_ray.planning.grouped import Grouping, recipe_of_group
from lego_ray.planning.inventory import Inventory, agreed_format
from lego_ray.planning.kept_default import with_kept_default
from lego_ray.planning.naming import agreed_names
from lego_ray.planning.only_base import only_of_base
from lego_ray.planning.planner import make_plan, tally_sites
from lego_ray.planning.recipe import Recipe
from lego_ray.planning.recipe_file import LibraryRecipe, MergeEntry
from lego_ray.planning.recipe_words import in_recipe_words
from lego_ray.planning.scales import by_site
from lego_ray.planning.selection import adapters_named, without
from lego_ray.storage.links import lies_inside
from lego_ray.storage.places import Place

Find = Callable[[Recipe, Inventory, GroupOptions], Grouping]


@dataclass(frozen=True, slots=True)
class PlannedLibrary:
    """The merges of a library.

    Attributes:
        merges: Those that can be made, in the entries' order.
        groupings: What some of them are from.
        failed: Why an entry gives none, by its name.
    """

    merges: list[Planned] = field(default_factory=list)
    groupings: list[Grouping] = field(default_factory=list)
    failed: dict[str, BadInput] = field(default_factory=dict)


def plan_entries(
    library: LibraryRecipe,
    inventory: Inventory,
    places: LibraryPlaces,
    *,
    memory_budget: int,
    find: Find,
    strict: bool,
) -> PlannedLibrary:
    """Plans every merge of a library; what must be measured for that, last.

    Args:
        library: The library.
        inventory: The zoo.
        places: Where the merges go.
        memory_budget: Most bytes one worker may take.
        find: Finds the groups of an entry's adapters.
        strict: Whether a merge that cannot be made as asked ends the call.

    Raises:
        BadInput: If none can be made as asked, or strict and one cannot; names it.
    """
    outputs = [places.of_entry(entry) for entry in library.entries]
    _check_places(
        (e.recipe.name, p) for e, p in zip(library.entries, outputs, strict=True) if not e.groups
    )
    planned: dict[int, list[Planned]] = {}
    groupings: list[Grouping] = []
    failed: dict[int, BadInput] = {}
    # Groups last, because to find them takes long and an error is better had before.
    for at, entry in sorted(enumerate(library.entries), key=lambda each: bool(each[1].groups)):
        try:
            planned[at], found = _planned_entry(entry, inventory, outputs[at], memory_budget, find)
        except BadInput as error:
            if strict:
                raise
            failed[at] = error
        else:
            groupings += found
    if not planned:
        raise failed[min(failed)]
    merges = [each for at in sorted(planned) for each in planned[at]]
    _check_places((each.recipe.name, each.place) for each in merges)
    if places.output:
        check_inside(places.output, (each.place for each in merges))
    names = {library.entries[at].recipe.name: failed[at] for at in sorted(failed)}
    return PlannedLibrary(merges, groupings, names)


def _planned_entry(
    entry: MergeEntry, inventory: Inventory, output: Place, memory_budget: int, find: Find
) -> tuple[list[Planned], list[Grouping]]:
    """The merges of an entry, and the grouping they are from if it asks for groups."""
    taken = adapters_of(entry, inventory)
    with _naming(entry.recipe.name):
        # Of a group this checks names that may mean adapters and sites of other groups.
        recipe = _with_site_ranks(entry.recipe, entry.site_ranks, taken)
    if entry.groups is None:
        return [_planned(recipe, taken, output, memory_budget)], []
    with _naming(entry.recipe.name):
        grouping = find(entry.recipe, taken, entry.groups)
    merges = []
    for name in grouping.groups:
        mine = grouping.inventory_of(name)
        recipe = recipe_of_group(entry.recipe, name, mine)
        recipe = _with_site_ranks(recipe, entry.site_ranks, mine, complete=False)
        merges.append(_planned(recipe, mine, output.join(name), memory_budget))
    return merges, [grouping]


def manifests_at_outputs(
    library: LibraryRecipe, places: LibraryPlaces
) -> Iterator[tuple[str, dict[str, Any], int]]:
    """Manifests that earlier builds of a library left where its merges go.

    Args:
        library: The library.
        places: Where the merges go.

    Returns:
        The name of each one's entry, the manifest, and when it was written; see `written_at`.
    """
    for entry in library.entries:
        place, name = places.of_entry(entry), entry.recipe.name
        if entry.groups is None:
            outputs = iter([place])
        else:
            outputs = (place.join(f"{name}-{at}") for at in count(1))
        for each in outputs:
            store = each.open()
            manifest = manifest_at(store)
            if manifest is None:
                break
            yield name, manifest, written_at(store)


def with_kept_defaults(
    library: LibraryRecipe, before: Mapping[str, Sequence[Mapping[str, Any]]]
) -> LibraryRecipe:
    """The library, with entries that say nothing of how to merge as their merges were made before.

    Args:
        library: The library.
        before: Recipes that the merges of an entry were made by, by the entry's name.
    """
    entries = [
        replace(each, recipe=with_kept_default(each.recipe, before.get(each.recipe.name, ())))
        for each in library.entries
    ]
    return replace(library, entries=tuple(entries))


def _planned(recipe: Recipe, inventory: Inventory, place: Place, memory_budget: int) -> Planned:
    with _naming(recipe.name):
        plan = make_plan(recipe, inventory, memory_budget=memory_budget)
    return Planned(recipe, inventory, place, plan)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Names a merge in errors about its input, and keys of the recipe file in the place of flags."""
    try:
        yield
    except BadInput as error:
        where, *said = (in_recipe_words(text) for text in (error.where, error.problem, error.hint))
        raise type(error)(f"merge {name}, {where}", *said) from error


def _check_places(places: Iterable[tuple[str, Place]]) -> None:
    """Raises `InvalidOption` if two merges, each a name and a place, go to one place."""
    taken: dict[Place, str] = {}
    for name, place in places:
        other = taken.setdefault(place, name)
        if other != name:
            raise InvalidOption(f"merge {name}", f"it goes to {place}, and so does {other}")


def check_inside(output: Place, places: Iterable[Place]) -> None:
    """Passes places of merges that, where they are below a library's output, no link leads out of.

    Raises:
        OutputExists: Otherwise.
    """
    store = output.open()
    for place in places:
        key = place.key_below(output)
        if key and not lies_inside(store, key):
            raise OutputExists(
                str(place),
                "it is, or lies under, a link out of the library",
                "Delete the link, or give the merge its own `output:` in the recipe file.",
            )


def adapters_of(entry: MergeEntry, inventory: Inventory) -> Inventory:
    """The adapters of a zoo that an entry takes, and the refused ones it names.

    Raises:
        NoAdaptersFound: If it takes none, or a name means none.
        QueryError: If its condition cannot be decided.
    """
    name = entry.recipe.name
    taken = without(adapters_named(inventory, entry.adapters, name), entry.recipe.exclude)
    refused = inventory.refused if not entry.where else ()
    if entry.where:
        everything = Inventory(inventory.adapters, ())
        rows = conform("adapters", adapter_rows(everything, datetime.now(UTC)))
        chosen = {inventory.adapters[i].uri for i in choose(rows, entry.where)}
        taken = [adapter for adapter in taken if adapter.uri in chosen]
    if not taken:
        asked = entry.where or ", ".join(entry.adapters) or "all adapters"
        raise NoAdaptersFound(
            f"merge {name}",
            f"{asked} matches none of the {len(inventory.adapters)} adapters",
            "`lego-ray scan` lists the adapters.",
        )
    others = len(inventory.adapters) - len(taken) + len(inventory.refused) - len(refused)
    chosen_here = replace(inventory, adapters=tuple(taken), refused=refused, not_chosen=others)
    with _naming(name):
        return only_of_base(chosen_here, entry.recipe.only_base)


def _with_site_ranks(
    recipe: Recipe, site_ranks: Mapping[str, int], inventory: Inventory, *, complete: bool = True
) -> Recipe:
    if not site_ranks or recipe.rank is None:
        return recipe
    adapters = agreed_names(
        inventory.adapters,
        agreed_format(inventory.adapters),
        recipe.layout,
        agreed_base_model(inventory.adapters, recipe.base_model),
    )
    sites = [tally.example.site for tally in tally_sites(adapters)]
    own = by_site(sites, site_ranks, "sites", complete=complete)
    ranks = {site: own.get(site, recipe.rank) for site in sites}
    return replace(recipe, rank=max(ranks.values()), ranks=ranks)
