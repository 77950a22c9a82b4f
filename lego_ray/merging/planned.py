"""Merges that are planned, and where they go; and the road for any number of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from lego_ray.catalog.tables import Catalog
from lego_ray.catalog.tenure import Tenure
from lego_ray.errors import BadInput
from lego_ray.merging.plan_run import PlanRun
from lego_ray.merging.run import Records, Road
from lego_ray.merging.stages import Stages
from lego_ray.planning.inventory import Inventory
from lego_ray.planning.plan import Plan
from lego_ray.planning.recipe import Recipe
from lego_ray.planning.source_changes import Attempt
from lego_ray.runners.base import Runner
from lego_ray.storage.places import Place
from lego_ray.tasks.values import Progress


@dataclass(frozen=True, slots=True)
class Planned:
    """One merge of a library.

    Attributes:
        recipe: What to make.
        inventory: Of which adapters.
        place: Where it goes.
        plan: The plan of that.
    """

    recipe: Recipe
    inventory: Inventory
    place: Place
    plan: Plan

    @property
    def output(self) -> str:
        """Where it goes, as records have it."""
        return str(self.place)


def make_planned(
    planned: Sequence[Planned],
    catalog: Catalog | None,
    runner: Runner,
    *,
    attempt: Attempt,
    memory_budget: int,
    progress: Progress,
    started: float,
    stages: Stages,
    made: Records | None = None,
    tenure: Tenure | None = None,
    more: Mapping[str, Any] = MappingProxyType({}),
    bytes_before: int = 0,
    failed: dict[str, BadInput] | None = None,
) -> tuple[Records, int]:
    """Makes the merges that are not published yet.

    Args:
        planned: The merges.
        catalog: Where they are recorded, or None.
        runner: What runs the tasks.
        attempt: Which try of the run this is.
        memory_budget: Most bytes one worker may take.
        progress: Called with each plan that is run (result None), and with each result.
        started: When the run began, by `time.perf_counter`.
        stages: Where its time went so far.
        made: Records of merges that the run published before it started over, by name: they are left as
            they are. Takes those that are published now.
        tenure: The turn at a library, if there are turns: none is published or recorded once a later
            turn has begun.
        more: What else their manifests say; see `manifest_of`.
        bytes_before: Bytes that were read for them before this, to be counted in their records.
        failed: Takes the error of each that cannot be made as asked, by name; see `Road`.

    Returns:
        The records by name, and bytes read.

    Raises:
        SourceChanged: If a file of an adapter is not the one that was scanned. What is published is
            whole, and of one moment; nothing else was.
    """
    made = {} if made is None else made
    runs = [
        PlanRun(
            each.plan,
            each.inventory,
            each.place.open(),
            stages.copy(),
            attempt,
            catalog=catalog,
            memory_budget=memory_budget,
            progress=progress,
            more=more,
        )
        for each in planned
        if each.recipe.name not in made
    ]
    before = {
        each.recipe.name: made[each.recipe.name] for each in planned if each.recipe.name in made
    }
    road = Road(catalog, runner, attempt, memory_budget, started, tenure, bytes_before, failed)
    records, bytes_read = road.make(runs, made)
    return {**before, **records}, bytes_read
