"""One merge: its sources are scanned, and it is planned and made as one of a library is."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from lego_ray.catalog.tables import Catalog
from lego_ray.errors import SourceChanged
from lego_ray.merging.planned import Planned, make_planned
from lego_ray.merging.record import MergeRecord
from lego_ray.merging.stages import Stages
from lego_ray.output.catalog_rows import catalogued
from lego_ray.output.write import manifest_at, written_at
from lego_ray.planning.inventory import Choose, check_strict
from lego_ray.planning.kept_default import with_kept_default
from lego_ray.planning.planner import make_plan
from lego_ray.planning.recipe import Recipe
from lego_ray.planning.scan_limits import NO_LIMITS, ScanLimits
from lego_ray.planning.source_changes import Attempt
from lego_ray.runners.base import Runner
from lego_ray.sources.headers import scan_sources
from lego_ray.sources.identities import Sighting, sightings_of
from lego_ray.sources.rescan import rescanning
from lego_ray.storage.places import Place
from lego_ray.tasks.values import Progress


def merge_at(
    sources: Sequence[str],
    recipe: Recipe,
    *,
    output: Place,
    catalog: Catalog | None,
    runner: Runner,
    memory_budget: int,
    strict: bool,
    progress: Progress,
    trainer_checkpoints: str = "last",
    limits: ScanLimits = NO_LIMITS,
    more: Mapping[str, Any] = MappingProxyType({}),
    known: Sequence[Sighting] = (),
    choose: Choose | None = None,
) -> MergeRecord:
    """Merges the adapters under some sources; see `api.merge` for the promise.

    Args:
        sources: Where the adapters are.
        recipe: What to make of them.
        output: Where the merged adapter goes.
        catalog: Where it is recorded, or None.
        runner: What runs the tasks.
        memory_budget: Most bytes one worker may take.
        strict: Whether an adapter that is refused fails the run.
        progress: Called with the plan when it is made (result None), and with each result.
        trainer_checkpoints: `checkpoints` of `scan_sources`.
        limits: As for `scan_sources`.
        more: What else its manifest says; see `manifest_of`.
        known: What the merge it follows says of adapters.
        choose: Takes some of the adapters that are there; None to merge them all.
    """
    started = time.perf_counter()

    def attempted(attempt: Attempt) -> MergeRecord:
        return _merge_once(
            attempt,
            sources,
            recipe,
            output=output,
            catalog=catalog,
            runner=runner,
            memory_budget=memory_budget,
            progress=progress,
            more=more,
            trainer_checkpoints=trainer_checkpoints,
            limits=limits,
            known=known,
            choose=choose,
            started=started,
        )

    return rescanning(attempted, strict=strict)


def _merge_once(
    attempt: Attempt,
    sources: Sequence[str],
    recipe: Recipe,
    *,
    output: Place,
    catalog: Catalog | None,
    runner: Runner,
    memory_budget: int,
    progress: Progress,
    more: Mapping[str, Any],
    trainer_checkpoints: str,
    limits: ScanLimits,
    known: Sequence[Sighting],
    choose: Choose | None,
    started: float,
) -> MergeRecord:
    """Merges what is there now; see `merge_at`.

    Raises:
        SourceChanged: If a file of an adapter is not the one that was scanned.
    """
    stages = Stages()
    with stages.timed("scan"):
        store = output.open()
        manifest = manifest_at(store)
        if manifest is not None:
            recipe = with_kept_default(recipe, [manifest["recipe"]])
        seen = [*known, *sightings_of(manifest, written_at(store))]
        scan = scan_sources(
            sources,
            exclude=recipe.exclude,
            full_weights=recipe.full_weights,
            checkpoints=trainer_checkpoints,
            skip=[output],
            known=catalogued(catalog).and_of(seen),
            again=attempt.is_again,
            limits=limits,
            base=recipe.base,
        )
    stages.moved("scan", scan.bytes_read)
    inventory = attempt.with_gone(scan.inventory)
    check_strict(inventory, attempt.strict)
    if choose is not None:
        inventory = choose(inventory)
    if inventory.adapters:
        with stages.timed("start"):
            runner.start()
    with stages.timed("plan"):
        plan = make_plan(recipe, inventory, sources=sources, memory_budget=memory_budget)
    try:
        records, _ = make_planned(
            [Planned(recipe, inventory, output, plan)],
            catalog,
            runner,
            attempt=attempt,
            memory_budget=memory_budget,
            progress=progress,
            started=started,
            stages=stages,
            more=more,
            bytes_before=scan.bytes_read,
        )
    except SourceChanged:
        attempt.bytes_read += scan.bytes_read
        raise
    return records[recipe.name].after(attempt)
