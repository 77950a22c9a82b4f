"""Zoos whose pools outgrow a small budget, so that sites are spread over shards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lego_ray.errors import InvalidOption
from lego_ray.planning.plan import Plan
from lego_ray.planning.planner import make_plan
from lego_ray.planning.recipe import Recipe
from lego_ray.planning.task_plans import WORKER_BYTES
from lego_ray.sources.headers import scan_sources
from tests.zoo import Site, write_adapter

# Wide enough that rows, and not the fixed part of a shard's work, fill the budget.
SITES = (Site("layers.0.q_proj", (96,), 64), Site("layers.1.q_proj", (64,), 32))


def write_wide_zoo(root: Path, count: int = 12, sites: Sequence[Site] = SITES) -> Path:
    """Adapters of ranks 30 to 41, one of which lacks the second site if there is one."""
    for number in range(count):
        missing = [site.name for site in sites[1:]] if number == 2 else []
        path = root / f"a{number:02}"
        write_adapter(path, seed=number, rank=30 + number, sites=sites, missing=missing)
    return root


def budget_for(zoo: Path, shards: int, rank: int = 4, **options: Any) -> int:
    """The largest budget under which some site has at least this many shards."""
    return budget_of(Recipe(name="m", rank=rank, options=options), zoo, shards)


def budget_of(recipe: Recipe, zoo: Path, shards: int) -> int:
    """The same for any recipe."""
    inventory = scan_sources([str(zoo)]).inventory
    whole = make_plan(recipe, inventory).peak_bytes
    for part in range(400, 0, -1):
        budget = WORKER_BYTES + (whole - WORKER_BYTES) * part // 400
        try:
            plan = make_plan(recipe, inventory, memory_budget=budget)
        except InvalidOption:
            break
        if max(shards_of(plan).values()) >= shards:
            return budget
    raise AssertionError(f"no budget gives {shards} shards")


def shards_of(plan: Plan) -> dict[str, int]:
    """Number of shards by site; 0 for one that fits a worker."""
    return {site.site: len(task.shards) for task in plan.tasks for site in task.sites}
