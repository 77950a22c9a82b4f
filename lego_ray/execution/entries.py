"""From a library's entries to its merges: which adapters each takes, and where it goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from lego_ray.catalog.choosing import choose
from lego_ray.catalog.rows import conform
from lego_ray.errors import BadInput, InvalidOption, NoAdaptersFound
from lego_ray.execution.publishing.cataloguing import adapter_rows
from lego_ray.planning.inventory import Inventory
from lego_ray.planning.plan import Plan
from lego_ray.planning.planner import make_plan, tally_sites
from lego_ray.planning.recipe import Recipe
from lego_ray.planning.recipe_file import LibraryRecipe, MergeEntry
from lego_ray.planning.scales import by_site
from lego_ray.planning.selection import adapters_named, without
from lego_ray.storage.uri import join, normalise_uri


@dataclass(frozen=True, slots=True)
class Planned:
    """One merge of a library.

    Attributes:
        recipe: What to make.
        inventory: Of which adapters.
        output: Where it goes.
        plan: The plan of that.
    """

    recipe: Recipe
    inventory: Inventory
    output: str
    plan: Plan


def plan_entries(
    library: LibraryRecipe,
    inventory: Inventory,
    output: str,
    *,
    memory_budget: int,
) -> list[Planned]:
    """Plans every merge of a library.

    Args:
        library: The library.
        inventory: The zoo.
        output: Where the merges go, each below its name, unless its entry says.
        memory_budget: Most bytes one worker may take.

    Raises:
        BadInput: If one cannot be made as asked; names it.
    """
    planned: list[Planned] = []
    for entry in library.entries:
        name, place = entry.recipe.name, _place(entry, output)
        with_place = [p.recipe.name for p in planned if p.output == place]
        if with_place:
            raise InvalidOption(f"merge {name}", f"it goes to {place}, and so does {with_place[0]}")
        taken = adapters_of(entry, inventory)
        try:
            recipe = _with_site_ranks(entry.recipe, entry.site_ranks, taken)
            plan = make_plan(recipe, taken, memory_budget=memory_budget)
        except BadInput as error:
            where = f"merge {name}, {error.where}"
            raise type(error)(where, error.problem, error.hint) from error
        planned.append(Planned(recipe, taken, place, plan))
    return planned


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
            f"none of the {len(inventory.adapters)} adapters is meant by {asked}",
            "`lego-ray scan` lists what there is.",
        )
    return Inventory(tuple(taken), refused)


def _with_site_ranks(recipe: Recipe, site_ranks: Mapping[str, int], inventory: Inventory) -> Recipe:
    if not site_ranks or recipe.rank is None:
        return recipe
    sites = [tally.example.site for tally in tally_sites(inventory.adapters)]
    own = by_site(sites, site_ranks, "sites", complete=True)
    ranks = {site: own.get(site, recipe.rank) for site in sites}
    return replace(recipe, rank=max(ranks.values()), ranks=ranks)


def _place(entry: MergeEntry, output: str) -> str:
    if entry.output:
        return normalise_uri(entry.output)
    if not output:
        raise InvalidOption(
            "--output",
            f"merge {entry.recipe.name} has no output, and neither has the library",
            "Give --output, or `output:` in the recipe file.",
        )
    return normalise_uri(join(output, entry.recipe.name))
