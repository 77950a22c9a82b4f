"""An update: which adapters come and go is read, and the next version is made on the road."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lego_ray.catalog.tables import Catalog
from lego_ray.errors import SourceChanged
from lego_ray.merging.record import UpdateRecord
from lego_ray.merging.run import Road
from lego_ray.merging.stages import Stages
from lego_ray.merging.updates.changes import (
    check_fits,
    check_new,
    named_sources,
    records_of,
    with_names_of,
)
from lego_ray.merging.updates.parent import MergedBefore
from lego_ray.merging.updates.run import Leaving, UpdateRun
from lego_ray.output.catalog_rows import catalogued
from lego_ray.output.running_sums import State
from lego_ray.output.write import manifest_at, written_at
from lego_ray.planning.inventory import Inventory, check_strict, require_adapters
from lego_ray.planning.recipe import Recipe
from lego_ray.planning.scan_limits import NO_LIMITS, ScanLimits
from lego_ray.planning.source_changes import Attempt
from lego_ray.runners.base import Runner
from lego_ray.sources.headers import scan_sources
from lego_ray.sources.identities import sightings_of
from lego_ray.storage.places import Place


@dataclass(frozen=True, slots=True)
class Asked:
    """What an update is to do; see `api.update`.

    Attributes:
        add: Sources of adapters to add.
        remove: Names of adapters to remove.
        output: Where the new version goes.
        memory_budget: Most bytes one worker may take.
        strict: Whether an adapter that is refused fails the run.
        checkpoints: As for `scan_sources`.
        limits: As for `scan_sources`.
    """

    add: tuple[str, ...]
    remove: tuple[str, ...]
    output: Place
    memory_budget: int
    strict: bool
    checkpoints: str = "last"
    limits: ScanLimits = NO_LIMITS


def update_merge(
    attempt: Attempt,
    before: MergedBefore,
    asked: Asked,
    *,
    catalog: Catalog | None,
    runner: Runner,
    started: float,
) -> UpdateRecord:
    """Makes the next version of a merge; see `api.update` for the record and the errors.

    Args:
        attempt: Which try of the run this is.
        before: The merge.
        asked: What is to change.
        catalog: Where the version is recorded, or None.
        runner: What runs the tasks.
        started: When the call began, by `time.perf_counter`.

    Raises:
        SourceChanged: If a file of an adapter that comes or goes is not the one that was scanned.
    """
    stages, bytes_read = Stages(), 0
    try:
        manifest, where = before.manifest, before.store.uri
        state, recipe = before.state(), before.recipe()
        going = named_sources(manifest["sources"], asked.remove, where)
        with stages.timed("scan"):
            inventory, bytes_read = _scan(attempt, before, asked, recipe, state, catalog)
        layout = manifest["format"]
        inventory = replace(inventory, adapters=with_names_of(inventory.adapters, state, layout))
        check_new(inventory.adapters, manifest["sources"], where)
        check_fits(inventory.adapters, manifest, state, recipe)
        with stages.timed("scan"):
            found, read = records_of(going, recipe, catalog)
            leaving = Leaving(tuple(going), with_names_of(found, state, layout))
        bytes_read += read
        stages.moved("scan", bytes_read)
        run = UpdateRun(
            before,
            state,
            recipe,
            inventory,
            leaving,
            asked.output.open(),
            stages,
            sources=asked.add,
            memory_budget=asked.memory_budget,
            strict=asked.strict,
        )
        road = Road(
            catalog,
            runner,
            attempt,
            asked.memory_budget,
            started,
            bytes_before=bytes_read + before.store.bytes_read,
        )
        records, _ = road.make([run], {})
    except SourceChanged:
        attempt.bytes_read += bytes_read
        raise
    record = records[run.name]
    assert isinstance(record, UpdateRecord)  # see `UpdateRun.full_record`
    return record.after(attempt)


def _scan(
    attempt: Attempt,
    before: MergedBefore,
    asked: Asked,
    recipe: Recipe,
    state: State,
    catalog: Catalog | None,
) -> tuple[Inventory, int]:
    """The adapters to add, and the bytes it took to find them."""
    if not asked.add:
        return Inventory((), ()), 0
    written, output = written_at(before.store), asked.output.open()
    seen = [
        *sightings_of({"sources": state.everyone}, written),  # those that went may come back
        *sightings_of(before.manifest, written),
        *sightings_of(manifest_at(output), written_at(output)),
    ]
    scan = scan_sources(
        asked.add,
        exclude=recipe.exclude,
        full_weights=recipe.full_weights,
        checkpoints=asked.checkpoints,
        limits=asked.limits,
        skip=[asked.output, before.store.place],
        known=catalogued(catalog).and_of(seen),
        again=attempt.is_again,
        base=recipe.base,
    )
    inventory = attempt.with_gone(scan.inventory)
    check_strict(inventory, asked.strict)
    require_adapters(inventory, asked.add)
    return inventory, scan.bytes_read
