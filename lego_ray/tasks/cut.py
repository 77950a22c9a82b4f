"""Cuts a plan into tasks, and a task of a spread site into one for each shard."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

from lego_ray.formats.differences import Difference
from lego_ray.formats.record import AdapterRecord
from lego_ray.formats.site_factors import SiteFactors
from lego_ray.planning.plan import Plan
from lego_ray.tasks.passes import Pass, first_pass
from lego_ray.tasks.values import SolveTask, SourceSlice


def shard_tasks(task: SolveTask) -> list[SolveTask]:
    """A spread task cut into one for each shard: the same site, each with its block of adapters.

    Weights passed through unmerged are read with the first block of their adapter or, if it does not
    have the site, with the first of all. Differences are all added up with the first block, in plan
    order, so that their sum does not depend on the cut.
    """
    with_site = [source for source in task.sources if source.factors]
    blocks, start = [], 0
    for shard in task.plan.shards:
        blocks.append(tuple(with_site[start : start + shard.n_adapters]))
        start += shard.n_adapters
    without = tuple(source for source in task.sources if not source.factors)
    moved = []
    for number, block in enumerate(blocks[1:], 1):
        moved += [replace(s, factors=(), full_weights=()) for s in block if s.differences]
        blocks[number] = tuple(replace(source, differences=()) for source in block)
    blocks[0] = tuple(sorted((*blocks[0], *without, *moved), key=lambda source: source.adapter))
    return [replace(task, sources=block) for block in blocks]


def tasks_of(
    plan: Plan,
    done: Collection[str] = frozenset(),
    *,
    full_weights: bool = True,
    work: Pass | None = None,
) -> Iterator[SolveTask]:
    """The tasks that are left of a plan, in order, each under its number there.

    Args:
        plan: The plan.
        done: Names of sites to leave out; a task with none left is left out too.
        full_weights: Whether the weights passed through unmerged, and the differences, are wanted. They
            travel with the first task, if the pass merges.
        work: The pass; None for the one that the plan's recipe begins with.
    """
    work = work or first_pass(plan.recipe)
    full_weights = full_weights and work.is_merge
    for index, task in enumerate(plan.tasks):
        left = tuple(site for site in task.sites if site.site not in done)
        if not left:
            continue
        wanted = {site.site for site in left}
        factors_of: dict[int, tuple[SiteFactors, ...]] = {}  # shared by adapters that share sites
        sources = []
        for number, (adapter, weight) in enumerate(zip(plan.adapters, plan.weights, strict=True)):
            if id(adapter.sites) not in factors_of:
                mine = tuple(f for f in adapter.sites if f.site in wanted)
                factors_of[id(adapter.sites)] = mine
            factors = factors_of[id(adapter.sites)]
            kept = adapter.full_weights if full_weights else ()
            added = _weighted(adapter, weight, plan) if full_weights else ()
            if factors or kept or added:
                sources.append(SourceSlice.of(adapter, number, factors, kept, weight, added))
        full_weights = False
        # The task's estimates stand, as estimates from above.
        rest = replace(task, sites=left)
        yield SolveTask(
            index,
            plan.digest,
            rest,
            tuple(sources),
            plan.memory_budget,
            work,
            merge=plan.recipe.name or "",
            of=len(plan.tasks),
        )


def _weighted(adapter: AdapterRecord, weight: float, plan: Plan) -> tuple[Difference, ...]:
    """An adapter's differences with its weight; those that are kept of one adapter stay as they are."""
    if plan.recipe.full_weights.startswith("keep"):
        return adapter.differences
    return tuple(replace(each, scaling=each.scaling * weight) for each in adapter.differences)
