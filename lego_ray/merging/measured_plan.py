"""Error against k, before anything is merged: what `lego-ray plan --errors` shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lego_ray.merging.bad_adapters import bad_adapters, without_bad
from lego_ray.merging.losses import with_losses
from lego_ray.planning.inventory import Inventory
from lego_ray.planning.options import DEFAULT_ERROR
from lego_ray.planning.plan import Plan
from lego_ray.planning.planner import make_plan
from lego_ray.planning.ranks import error_table
from lego_ray.planning.recipe import Recipe
from lego_ray.runners.base import Runner
from lego_ray.runners.open import closing_results
from lego_ray.sources.confirm import confirm
from lego_ray.tasks.cut import tasks_of
from lego_ray.tasks.passes import Measuring, found_at_all
from lego_ray.tasks.values import Progress, TaskResult


def plan_with_errors(
    recipe: Recipe,
    inventory: Inventory,
    runner: Runner,
    *,
    sources: Sequence[str],
    memory_budget: int,
    strict: bool,
    progress: Progress,
) -> Plan:
    """Measures the adapters and plans the merge, at ranks chosen by that if they are open.

    Writes nothing, and keeps nothing for the merge.

    Args:
        recipe: What to make.
        inventory: What a scan found.
        runner: What runs the tasks.
        sources: The user's words for where that was.
        memory_budget: Most bytes one worker may take.
        strict: Whether an adapter that turns out bad is an error.
        progress: Called with each plan that is measured (result None), and with each result.

    Returns:
        The plan that merges, with `errors` and `nearest_error`.

    Raises:
        SourceChanged: If a file of an adapter is not the one that was scanned.
    """
    opened = recipe
    if not recipe.is_open:
        make_plan(recipe, inventory, sources=sources, memory_budget=memory_budget)  # or an error
        # By a method that takes every rank and any memory: what is measured depends on none.
        opened = replace(recipe, rank=None, rank_error=DEFAULT_ERROR, method="lego", options={})
    plan = make_plan(opened, inventory, sources=sources, memory_budget=memory_budget)
    while True:
        results = _run(plan, runner, progress)
        confirm(plan.adapters)
        bad = bad_adapters(plan.adapters, results)
        if not bad:
            break
        inventory = without_bad(plan, inventory, bad, strict)
        plan = make_plan(opened, inventory, sources=sorted(bad), memory_budget=memory_budget)
    made = Measuring().then(recipe, plan, results).plan(inventory, memory_budget)
    return replace(
        made,
        adapters=with_losses(made.adapters, (loss for r in results for loss in r.losses)),
        errors=error_table(found_at_all(plan, results), [made.rank]),
    )


def _run(plan: Plan, runner: Runner, progress: Progress) -> list[TaskResult]:
    progress(plan, None)
    confirm(plan.adapters, weights=False)
    found = []
    with closing_results(runner, tasks_of(plan)) as results:
        for result in results:
            found.append(result)
            progress(plan, result)
    return found
