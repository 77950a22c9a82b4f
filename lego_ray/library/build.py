"""Builds a library: many merges over one zoo, each adapter's bytes read once for all of them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from lego_ray.catalog.adapters import adapter_places, record_adapters
from lego_ray.catalog.groups import record_groups
from lego_ray.catalog.opening import catalog_at
from lego_ray.catalog.tables import Catalog
from lego_ray.catalog.tenure import Tenure
from lego_ray.errors import BadInput, RecipeError, RunFailed, SourceChanged, UnsupportedUri
from lego_ray.library.entries import manifests_at_outputs, plan_entries, with_kept_defaults
from lego_ray.library.find_groups import GroupFinder, group_record, group_rows, grouping_id
from lego_ray.library.places import LibraryPlaces, read_places
from lego_ray.library.record import LibraryRecord, failures_of, library_counts, made_of
from lego_ray.merging.planned import make_planned
from lego_ray.merging.record import PLANNED, entries_set_aside, record_of, seconds_since
from lego_ray.merging.run import Records
from lego_ray.merging.stages import Stages
from lego_ray.output.catalog_rows import adapter_rows, catalogued
from lego_ray.planning.grouped import Grouping
from lego_ray.planning.inventory import Inventory, check_strict, require_adapters
from lego_ray.planning.recipe_file import MAX_CHARACTERS, LibraryRecipe, parse_recipe_file
from lego_ray.planning.source_changes import Attempt
from lego_ray.planning.tags import tagged
from lego_ray.runners.base import Runner
from lego_ray.sources.expand import places_of
from lego_ray.sources.headers import scan_sources
from lego_ray.sources.identities import sightings_of
from lego_ray.sources.rescan import rescanning
from lego_ray.sources.tags_table import read_tagging
from lego_ray.storage.bounded import read_at_most
from lego_ray.storage.buckets import buckets_in_use
from lego_ray.storage.places import Place
from lego_ray.tasks.values import Progress


def read_library(place: Place, named: str) -> LibraryRecipe:
    """Reads a recipe file; see `build` for what it may raise.

    Args:
        place: Where it is.
        named: The user's words for that, for errors.
    """
    parts = place.split()
    if parts is None:
        problem = "this is the root of a store, not a recipe file"
        raise UnsupportedUri(str(place), problem, "Give a path or s3://bucket/key.")
    folder, key = parts
    data = read_at_most(folder.open(), key, 4 * MAX_CHARACTERS)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise RecipeError(named, (f"it is not text: {error}",)) from None
    library = parse_recipe_file(text, named)
    if not library.tags and not library.tags_from_folders:
        return library
    with buckets_in_use(library.buckets):
        tagging = read_tagging(library.tags or None, library.tags_from_folders or None)
    return replace(library, tagging=tagging)


def run_build(
    library: LibraryRecipe,
    *,
    runner: Runner,
    memory_budget: int,
    strict: bool,
    progress: Progress,
    dry_run: bool = False,
) -> LibraryRecord:
    """Builds a library; see `build` for the promise.

    Args:
        library: What to build.
        runner: What runs the tasks.
        memory_budget: Most bytes one worker may take.
        strict: Whether an adapter that is refused fails the run.
        progress: Called with each plan that is run (result None), and with each result.
        dry_run: Whether only to plan.
    """
    started = time.perf_counter()
    places = read_places(library)
    made: Records = {}

    def attempted(attempt: Attempt) -> LibraryRecord:
        try:
            return _build_once(
                attempt,
                library,
                places,
                made,
                runner=runner,
                memory_budget=memory_budget,
                progress=progress,
                dry_run=dry_run,
                started=started,
            )
        except SourceChanged as error:
            if made and any(entry.groups for entry in library.entries):
                raise _half_made(error, made) from error
            raise

    return rescanning(attempted, strict=strict)


def _half_made(error: SourceChanged, made: Records) -> RunFailed:
    """The error of groups that some merges are of and that would be others now."""
    return RunFailed(
        error.where,
        f"{error.problem}, when {len(made)} merges of the library were published; groups of what is "
        "there now may be others than those they are of",
        "Build the library again to another output.",
    )


def _build_once(
    attempt: Attempt,
    library: LibraryRecipe,
    places: LibraryPlaces,
    made: Records,
    *,
    runner: Runner,
    memory_budget: int,
    progress: Progress,
    dry_run: bool,
    started: float,
) -> LibraryRecord:
    """Builds a library of what is there now; see `run_build` and, of `made`, `make_planned`."""
    catalog = catalog_at(places.catalog) if places.catalog else None
    sources: Sequence[str | Place] = library.sources or (adapter_places(catalog) if catalog else ())
    stages = Stages()
    with stages.timed("scan"):
        there = list(manifests_at_outputs(library, places))
        before = [s for _, manifest, written in there for s in sightings_of(manifest, written)]
        made_by: dict[str, list[Mapping[str, Any]]] = {}
        for name, manifest, _ in there:
            made_by.setdefault(name, []).append(manifest["recipe"])
        library = with_kept_defaults(library, made_by)
        scan = scan_sources(
            sources,
            exclude=library.exclude,
            full_weights=library.full_weights,
            checkpoints=library.checkpoints,
            limits=library.scan_limits,
            base=library.base,
            skip=places.outputs,
            known=catalogued(catalog).and_of(before),
            again=attempt.is_again,
        )
    stages.moved("scan", scan.bytes_read)
    inventory = tagged(attempt.with_gone(scan.inventory), library.tagging, places_of(sources))
    check_strict(inventory, attempt.strict)
    require_adapters(inventory, map(str, sources))
    with stages.timed("start"):
        runner.start()
    if catalog and not dry_run and any(entry.groups for entry in library.entries):
        catalog.check_writable()  # before it takes long to find groups
    finder = GroupFinder(runner, memory_budget, attempt.strict, progress)
    bytes_read = scan.bytes_read
    failed: dict[str, BadInput] = {}
    try:
        with stages.timed("plan"):
            asked = plan_entries(
                library,
                inventory,
                places,
                memory_budget=memory_budget,
                find=finder.find,
                strict=attempt.strict,
            )
        stages.moved("plan", finder.bytes_read)  # to find groups
        if dry_run:
            records = {
                each.recipe.name: record_of(
                    each.plan,
                    status=PLANNED,
                    output=each.output,
                    catalog=catalog.uri if catalog else None,
                    started=started,
                )
                for each in asked.merges
            }
        else:
            records, read = make_planned(
                asked.merges,
                catalog,
                runner,
                attempt=attempt,
                memory_budget=memory_budget,
                progress=progress,
                started=started,
                stages=stages,
                made=made,
                failed=None if attempt.strict else failed,
            )
            bytes_read += read
            if catalog:
                record_groupings(catalog, made_of(asked.groupings, records), records)
    except SourceChanged:
        attempt.bytes_read += scan.bytes_read + finder.bytes_read
        raise
    runner.stop()
    return LibraryRecord(
        output=str(places.output) if places.output else None,
        catalog=catalog.uri if catalog else None,
        adapters=len(inventory.adapters),
        counts=library_counts(inventory, asked.merges, records),
        **entries_set_aside(inventory),
        merges=tuple(
            records[each.recipe.name].warned(attempt)
            for each in asked.merges
            if each.recipe.name in records
        ),
        failed=failures_of({**asked.failed, **failed}),
        groups=tuple(group_record(each, records) for each in made_of(asked.groupings, records)),
        dry_run=dry_run,
        seconds=seconds_since(started),
        bytes_read=bytes_read + finder.bytes_read + attempt.bytes_read,
    )


def record_groupings(
    catalog: Catalog,
    groupings: Sequence[Grouping],
    records: Mapping[str, Mapping[str, Any]],
    tenure: Tenure | None = None,
) -> None:
    """Writes down who was put with whom, and who stays alone, once all merges are there."""
    now = datetime.now(UTC)
    for each in groupings:
        alone = tuple(member.adapter for member in each.alone)
        record_adapters(catalog, adapter_rows(Inventory(alone, each.inventory.refused), now))
        former = grouping_id(each, records, former=True)
        record_groups(catalog, group_rows(each, records, now), tenure, former_id=former)
