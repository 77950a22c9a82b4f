"""Builds a library: many merges over one zoo, each adapter's bytes read once for all of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from os import fspath
from typing import Any

from lego_ray.catalog.adapters import adapter_places, record_adapters
from lego_ray.catalog.groups import record_groups
from lego_ray.catalog.opening import has_merge, open_catalog
from lego_ray.catalog.tables import Catalog
from lego_ray.errors import InvalidOption, RecipeError
from lego_ray.execution import journal
from lego_ray.execution.arguments import Uri, parse_bytes
from lego_ray.execution.entries import Planned, plan_entries
from lego_ray.execution.grouping import GroupFinder, group_record, group_rows
from lego_ray.execution.merging import publish_solved, record_of_published
from lego_ray.execution.publishing.cataloguing import adapter_rows
from lego_ray.execution.publishing.publish import published_manifest
from lego_ray.execution.resume.checkpoints import Checkpoints
from lego_ray.execution.runner import Runner, running
from lego_ray.execution.scanning import scan_sources
from lego_ray.execution.solving import (
    PlanRun,
    Progress,
    check_strict,
    closing_results,
    note_planned,
)
from lego_ray.execution.stages import Stages
from lego_ray.execution.task import GroupResult, SharedTask, share
from lego_ray.planning.group_options import FLAG, group_count
from lego_ray.planning.grouped import Grouping
from lego_ray.planning.inventory import Inventory, require_adapters
from lego_ray.planning.joint import JointGroup, cut_jointly
from lego_ray.planning.planner import DEFAULT_MEMORY_BUDGET
from lego_ray.planning.recipe_file import LibraryRecipe, parse_recipe_file
from lego_ray.storage.base import Store
from lego_ray.storage.open import open_store
from lego_ray.storage.probe import probe_create_only
from lego_ray.storage.uri import normalise_uri


@dataclass(slots=True)
class _Merge:
    """One merge under way."""

    planned: Planned
    store: Store
    checkpoints: Checkpoints
    run: PlanRun
    stages: Stages

    def take(self, result: GroupResult, runner: Runner) -> None:
        """Keeps the result of one of its tasks."""
        self.stages.moved(self.run.stage, result.bytes_read)
        self.run.take(result, runner)


def build(
    recipe: Uri,
    *,
    output: Uri | None = None,
    catalog: Uri | None = None,
    groups: int | str | None = None,
    dry_run: bool = False,
    runner: str | Runner = "ray",
    address: str = "local",
    workers: int | None = None,
    gpus: float = 0.0,
    memory_budget: int | str = DEFAULT_MEMORY_BUDGET,
    strict: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Builds a library: every merge of a recipe file, each adapter's bytes read once for all.

    Each merge is the one that `merge` makes of the same adapters, to the same bytes. Finished tasks
    are kept beside its output until it is published, nothing is overwritten, and a build that was
    stopped, called again, goes on. Merges that are published already are left as they are.

    Bytes are read again for a site that does not fit a worker for all merges at once, and to choose
    ranks. An entry with `groups` is one merge a group, `name-1`, `name-2`, ..., of adapters whose
    updates are alike; adapters that stay alone are left out of them. To find the groups each of its
    adapters is read once more, also when the build goes on or all is published already.

    Args:
        recipe: The recipe file: a path or `s3://bucket/key`.
        output: Where the merges go, each below its name; in place of the file's `output`.
        catalog: Where they are recorded; in place of the file's `catalog`.
        groups: How many groups, or `auto`; in place of what the file's entries with `groups` say.
        dry_run: Only plan, which reads what groups are found by; write nothing.
        runner: As for `merge`, as are the others.
        address: Likewise.
        workers: Likewise.
        gpus: Likewise.
        memory_budget: Likewise.
        strict: Likewise.
        progress: Called with each merge's plan, and with each result of it.

    Returns:
        `output`, `catalog`, `adapters` (how many there are), `refused` (a list of `{adapter, reason}`),
        `merges` (what `merge` returns of each, in order, without the bytes that were read for several;
        of a dry run, with the status `planned`, what is known of that), `groups` (a list, an entry with
        `groups` each; see `grouping.group_record`), `dry_run`, `seconds`, `bytes_read`.

    Raises:
        RecipeError: If the file is not as it must be; every fault is named.
        BadInput: If a merge cannot be made as asked; nothing was written.
        StorageError: If a store cannot be read or written.
        RunFailed: If the run did not finish.
    """
    library = read_library(fspath(recipe))
    if catalog is not None:
        library = replace(library, catalog=fspath(catalog))
    if groups is not None:
        library = _with_groups(library, group_count(groups), fspath(recipe))
    budget = parse_bytes(memory_budget)
    with running(runner, address=address, workers=workers, gpus=gpus) as mine:
        return run_build(
            library,
            output=fspath(output) if output is not None else library.output,
            runner=mine,
            memory_budget=budget,
            strict=strict,
            progress=progress or (lambda plan, result: None),
            dry_run=dry_run,
        )


def _with_groups(library: LibraryRecipe, count: int | None, where: str) -> LibraryRecipe:
    """The library with this number of groups in every entry that has groups."""
    if not any(entry.groups for entry in library.entries):
        raise InvalidOption(
            FLAG,
            f"no merge of {where} has groups",
            "Write `groups: auto` in the merges whose adapters are to be grouped.",
        )
    entries = tuple(
        replace(entry, groups=replace(entry.groups, count=count)) if entry.groups else entry
        for entry in library.entries
    )
    return replace(library, entries=entries)


def read_library(place: str) -> LibraryRecipe:
    """Reads a recipe file at a path or URI; see `build` for what it may raise."""
    uri = normalise_uri(place)
    folder, _, key = uri.rpartition("/")
    data = open_store(folder or "/").read(key)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise RecipeError(place, (f"it is no text: {error}",)) from None
    return parse_recipe_file(text, place)


def run_build(
    library: LibraryRecipe,
    *,
    output: str,
    runner: Runner,
    memory_budget: int,
    strict: bool,
    progress: Progress,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Builds a library; see `build` for the promise.

    Args:
        library: What to build.
        output: Where the merges go, each below its name; empty if each says for itself.
        runner: What runs the tasks.
        memory_budget: Most bytes one worker may take.
        strict: Whether an adapter that is refused fails the run.
        progress: Called with each plan that is run (result None), and with each result.
        dry_run: Whether only to plan.
    """
    started = time.perf_counter()
    catalog = open_catalog(library.catalog) if library.catalog else None
    sources = library.sources or (adapter_places(catalog) if catalog else ())
    outputs = [normalise_uri(place) for place in outputs_of(library, output)]
    stages = Stages()
    with stages.timed("scan"):
        scan = scan_sources(sources, full_weights=library.full_weights, skip=outputs)
    stages.moved("scan", scan.bytes_read)
    check_strict(scan.inventory, strict)
    require_adapters(scan.inventory, sources)
    with stages.timed("start"):
        runner.start()
    if catalog and not dry_run and any(entry.groups for entry in library.entries):
        catalog.check_writable()  # before it takes long to find groups
    finder = GroupFinder(runner, memory_budget, strict, progress)
    with stages.timed("plan"):
        planned, groupings = plan_entries(
            library, scan.inventory, output, memory_budget=memory_budget, find=finder.find
        )
    stages.moved("plan", finder.bytes_read)  # to find groups
    bytes_read = scan.bytes_read + finder.bytes_read
    if dry_run:
        records = {each.recipe.name: _record_of_plan(each, catalog) for each in planned}
    else:
        records, read = make_planned(
            planned,
            catalog,
            runner,
            memory_budget=memory_budget,
            strict=strict,
            progress=progress,
            started=started,
            stages=stages,
        )
        bytes_read += read
        if catalog:
            record_groupings(catalog, groupings, records)
    runner.stop()
    return {
        "output": normalise_uri(output) if output else None,
        "catalog": catalog.uri if catalog else None,
        "adapters": len(scan.inventory.adapters),
        "refused": [{"adapter": r.uri, "reason": r.reason} for r in scan.inventory.refused],
        "merges": [records[each.recipe.name] for each in planned],
        "groups": [group_record(each, records) for each in groupings],
        "dry_run": dry_run,
        "seconds": round(time.perf_counter() - started, 3),
        "bytes_read": bytes_read,
    }


def make_planned(
    planned: Sequence[Planned],
    catalog: Catalog | None,
    runner: Runner,
    *,
    memory_budget: int,
    strict: bool,
    progress: Progress,
    started: float,
    stages: Stages,
) -> tuple[dict[str, dict[str, Any]], int]:
    """Makes the merges that are not published yet; returns all records by name, and bytes read."""
    records: dict[str, dict[str, Any]] = {}
    merges: list[_Merge] = []
    bytes_read = 0
    with ExitStack() as held:
        for each in planned:
            held.enter_context(journal.failures(each.plan.digest))
            store = open_store(each.output)
            checkpoints = Checkpoints(store, each.plan)
            done = published_manifest(store, each.plan.digest, each.plan.marker)
            if done and (catalog is None or has_merge(catalog, done["merge_id"])):
                checkpoints.clear()
                records[each.recipe.name] = record_of_published(
                    done, each.output, catalog, 0, started
                )
                continue
            checkpoints.check()
            run = PlanRun(
                each.plan,
                each.inventory,
                checkpoints,
                memory_budget=memory_budget,
                strict=strict,
                progress=progress,
            )
            merges.append(_Merge(each, store, checkpoints, run, stages.copy()))
        _check_writable(merges, catalog)
        for merge in merges:
            note_planned(merge.planned.plan)
            held.enter_context(merge.checkpoints.held(catalog.uri if catalog else None))
        for merge, record, read in _solve(merges, runner, memory_budget, catalog, started):
            records[merge.planned.recipe.name] = record
            bytes_read += read
    return records, bytes_read


def record_groupings(
    catalog: Catalog, groupings: Sequence[Grouping], records: Mapping[str, Mapping[str, Any]]
) -> None:
    """Writes down who was put with whom, and who stays alone, once all merges are there."""
    now = datetime.now(UTC)
    for each in groupings:
        alone = tuple(member.adapter for member in each.alone)
        record_adapters(catalog, adapter_rows(Inventory(alone, each.inventory.refused), now))
        record_groups(catalog, group_rows(each, records, now))


def _record_of_plan(planned: Planned, catalog: Catalog | None) -> dict[str, Any]:
    """What is known of a merge before it is made."""
    plan = planned.plan
    return {
        "merge_id": None if plan.recipe.is_open else plan.digest,
        "name": plan.recipe.name,
        "status": "planned",
        "output": planned.output,
        "catalog": catalog.uri if catalog else None,
        "adapters": [a.uri for a in plan.adapters],
        "refused": [{"adapter": r.uri, "reason": r.reason} for r in plan.refused],
        "sites": plan.n_sites,
        "rank": plan.recipe.rank,
        "method": plan.recipe.method,
        "licenses": list(plan.licences),
        "warnings": list(plan.warnings),
    }


def outputs_of(library: LibraryRecipe, output: str) -> Iterator[str]:
    """Where a library's merges go: its output, and those that entries have of their own."""
    if output:
        yield output
    yield from (entry.output for entry in library.entries if entry.output)


def _check_writable(merges: Sequence[_Merge], catalog: Catalog | None) -> None:
    if not merges:
        return
    if catalog:
        catalog.check_writable()
        probe_create_only(open_store(catalog.uri))
    for merge in merges:
        probe_create_only(merge.store)


def _solve(
    merges: Sequence[_Merge],
    runner: Runner,
    memory_budget: int,
    catalog: Catalog | None,
    started: float,
) -> Iterator[tuple[_Merge, dict[str, Any], int]]:
    """Runs all merges side by side, in rounds; publishes each when it is done.

    Yields:
        A merge, its record, and the bytes read since the one before.
    """
    left, bytes_read = list(merges), 0
    while left:
        plans, joint = cut_jointly([merge.run.plan for merge in left], memory_budget)
        for merge, plan in zip(left, plans, strict=True):
            merge.run.plan = plan
        with ExitStack() as timed:
            for merge in left:
                timed.enter_context(merge.stages.timed(merge.run.stage))
            for merge in left:
                merge.run.begin()
            bytes_read += _run_round(left, joint, runner)
        going = []
        for merge in left:
            solved = merge.run.end()
            if solved is None:
                going.append(merge)
                continue
            record = publish_solved(
                solved,
                merge.planned.plan.digest,
                merge.store,
                catalog,
                merge.checkpoints,
                started=started,
                bytes_read=solved.bytes_read,
                stages=merge.stages,
            )
            yield merge, record, bytes_read + solved.bytes_read
            bytes_read = 0
        left = going


def _run_round(merges: Sequence[_Merge], joint: Sequence[JointGroup], runner: Runner) -> int:
    """Runs what is left of some plans; returns the bytes of shared reads."""
    waiting = [{task.index: task for task in merge.run.tasks()} for merge in merges]
    owners: list[list[int]] = []
    shared: list[SharedTask] = []
    for group in joint:
        parts = [(n, waiting[n].pop(index)) for n, index in group.parts if index in waiting[n]]
        if parts:
            owners.append([n for n, _ in parts])
            tasks = [task for _, task in parts]
            shared.append(share(len(shared), group.name, group.peak_bytes, tasks))
    bytes_read = 0
    with closing_results(runner, shared) as together:
        for several in together:
            bytes_read += several.bytes_read
            for n, part in zip(owners[several.index], several.parts, strict=True):
                merges[n].take(part, runner)
    for merge, tasks_left in zip(merges, waiting, strict=True):
        with closing_results(runner, tasks_left.values()) as alone:
            for result in alone:
                merge.take(result, runner)
    return bytes_read
