"""From a plan that was measured to the plan that merges: ranks are chosen, and written into it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from lego_ray import journal
from lego_ray.errors import SitesFailed
from lego_ray.planning.inventory import Inventory
from lego_ray.planning.plan import Plan
from lego_ray.planning.planner import make_plan
from lego_ray.planning.ranks import Spectrum, nearest_error, with_ranks
from lego_ray.planning.recipe import Recipe
from lego_ray.tasks.values import GroupResult


def ranked_plan(
    recipe: Recipe, inventory: Inventory, spectra: list[Spectrum], memory_budget: int
) -> Plan:
    """Plans a merge at ranks chosen by what was measured, or at its own if it has them.

    Args:
        recipe: What to make.
        inventory: The adapters that were measured.
        spectra: What that gave, of all sites, in plan order.
        memory_budget: Most bytes one worker may take.

    Raises:
        InvalidOption: If the merge fits no worker at these ranks.
    """
    if recipe.is_open:
        recipe = with_ranks(recipe, spectra)
    plan = make_plan(recipe, inventory, memory_budget=memory_budget)
    return replace(plan, nearest_error=nearest_error(spectra, recipe))


def spectra_of(plan: Plan, results: Iterable[GroupResult]) -> list[Spectrum]:
    """What was measured of a plan, in its order.

    Raises:
        SitesFailed: If a site is missing from the results.
    """
    found = {spectrum.site: spectrum for result in results for spectrum in result.spectra}
    missing = [s.site for g in plan.groups for s in g.sites if s.site not in found]
    if missing:
        raise SitesFailed(
            plan.digest[:12],
            f"{len(missing)} of {plan.n_sites} were not measured, {missing[0]} first",
        )
    return [found[s.site] for g in plan.groups for s in g.sites]


def note_ranks(measured: Plan, plan: Plan) -> None:
    """Logs what was chosen."""
    ranks = [site.rank for group in plan.groups for site in group.sites]
    journal.note(
        "ranks chosen",
        plan.digest,
        asked=measured.recipe.rank_asked,
        measured=measured.digest[:12],
        least=min(ranks),
        most=max(ranks),
        nearest_error=plan.nearest_error,
    )
