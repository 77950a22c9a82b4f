"""Plans a merge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Unpack

from lego_ray.arguments import checked_with
from lego_ray.merging.measured_plan import plan_with_errors
from lego_ray.options import picked
from lego_ray.planning.arguments import (
    Uri,
    checkpoints_of,
    limits_of,
    output_place,
    parse_bytes,
    recipe_of,
    recipes_at_ranks,
    sources_given,
)
from lego_ray.planning.inventory import Inventory, check_strict
from lego_ray.planning.options import MergeOptions, RunOptions
from lego_ray.planning.plan import Plan
from lego_ray.planning.planner import make_plan
from lego_ray.planning.recipe import Recipe
from lego_ray.planning.source_changes import Attempt, warning
from lego_ray.planning.sweep import SweepPlan, sweep_of
from lego_ray.runners.base import Runner
from lego_ray.runners.open import open_runner
from lego_ray.sources.headers import scan_sources
from lego_ray.sources.rescan import rescanning
from lego_ray.storage.places import Place
from lego_ray.tasks.values import Progress


@checked_with(MergeOptions)
def plan(
    sources: Uri | Sequence[Uri],
    *,
    output: Uri | None = None,
    errors: bool = False,
    runner: str | Runner = "inline",
    progress: Progress | None = None,
    **options: Unpack[MergeOptions],
) -> Plan:
    """Plans a merge: nothing is written. From headers alone, unless errors are asked for.

    Args:
        sources: As for `merge`.
        output: Where the merged adapter would go; gives the name, and is not a source itself.
        errors: Read the adapters and measure what a rank can give. The plan then has `.errors`, which
            tells for k = 1, 2, 4, ... how far the nearest adapter of rank k is from the sum of the
            updates, and ranks that are open are chosen by it.
        runner: What measures.
        progress: Called as by `merge`, while measuring.
        **options: As for `merge`; see `MergeOptions`.

    Returns:
        The plan; `.digest` names it, `.as_json()` is what `lego-ray plan --json` prints. Where ranks
        are open it is the plan to measure, and `merge_id` is the digest of the one with errors.

    Raises:
        BadInput: If the merge cannot be made as asked.
        StorageError: If a source cannot be read.
    """
    place = None if output is None else output_place(output)
    recipe = recipe_of(place, options)
    run = picked(RunOptions, options)
    strict = run["strict"]
    where = sources_given(sources)
    budget = parse_bytes(run["memory_budget"])

    def scanned(attempt: Attempt) -> Inventory:
        return _scanned(attempt, where, recipe, place, options)

    if not errors:
        return make_plan(recipe, scanned(Attempt()), sources=where, memory_budget=budget)

    def measured(attempt: Attempt) -> Plan:
        made = plan_with_errors(
            recipe,
            scanned(attempt),
            mine,
            sources=where,
            memory_budget=budget,
            strict=strict,
            progress=progress or (lambda plan, result: None),
        )
        about = (warning(error) for error in attempt.changes)
        return replace(made, warnings=(*made.warnings, *about))

    with open_runner(runner, options) as mine:
        return rescanning(measured, strict=strict)


@checked_with(MergeOptions)
def plan_ranks(
    sources: Uri | Sequence[Uri],
    *,
    ranks: Sequence[int],
    output: Uri | None = None,
    **options: Unpack[MergeOptions],
) -> SweepPlan:
    """Plans what `merge_ranks` would do, from headers alone: nothing is written.

    Args:
        sources: As for `merge`.
        ranks: As for `merge_ranks`.
        output: What the merges would go below; gives the names, and is not a source itself.
        **options: As for `merge_ranks`.

    Returns:
        The plans, in the order of the ranks, and what is read for all of them.

    Raises:
        BadInput: If a merge cannot be made as asked.
        StorageError: If a source cannot be read.
    """
    place = None if output is None else output_place(output)
    recipes = [recipe for _, recipe in recipes_at_ranks(place, ranks, options)]
    where = sources_given(sources)
    budget = parse_bytes(picked(RunOptions, options)["memory_budget"])
    inventory = _scanned(Attempt(), where, recipes[0], place, options)
    return sweep_of(
        [make_plan(recipe, inventory, sources=where, memory_budget=budget) for recipe in recipes],
        budget,
    )


def _scanned(
    attempt: Attempt,
    where: Sequence[str],
    recipe: Recipe,
    place: Place | None,
    options: MergeOptions,
) -> Inventory:
    """What is there to merge."""
    found = scan_sources(
        where,
        exclude=recipe.exclude,
        full_weights=recipe.full_weights,
        checkpoints=checkpoints_of(options),
        skip=() if place is None else (place,),
        again=attempt.is_again,
        limits=limits_of(options),
        base=recipe.base,
    )
    inventory = attempt.with_gone(found.inventory)
    check_strict(inventory, picked(RunOptions, options)["strict"])
    return inventory
