"""Makes planned merges side by side: tasks over one read serve all of them, each published when done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from lego_ray import journal
from lego_ray.catalog.opening import has_merge
from lego_ray.catalog.tables import Catalog
from lego_ray.catalog.tenure import Tenure
from lego_ray.errors import SourceChanged
from lego_ray.merging.one import publish_solved, record_of_published
from lego_ray.merging.plan_run import (
    PlanRun,
    Progress,
    closing_results,
    note_planned,
)
from lego_ray.merging.planned import Planned
from lego_ray.merging.stages import Stages
from lego_ray.output.checkpoints.checkpoints import Checkpoints
from lego_ray.output.write import published_merge
from lego_ray.planning.joint import JointGroup, cut_jointly
from lego_ray.planning.plan import set_aside
from lego_ray.planning.source_changes import Attempt
from lego_ray.runners.base import Runner
from lego_ray.storage.base import Store
from lego_ray.storage.open import open_store
from lego_ray.storage.probe import probe_create_only
from lego_ray.tasks.joint import SharedTask, share
from lego_ray.tasks.values import GroupResult

Records = dict[str, dict[str, Any]]


@dataclass(slots=True)
class _Merge:
    """One merge under way."""

    planned: Planned
    store: Store
    checkpoints: Checkpoints
    run: PlanRun
    stages: Stages

    def has(self, uri: str) -> bool:
        """Whether it takes an adapter."""
        return any(adapter.uri == uri for adapter in self.planned.plan.adapters)

    def take(self, result: GroupResult, runner: Runner) -> None:
        """Keeps the result of one of its tasks."""
        self.stages.moved(self.run.stage, result.bytes_read)
        self.run.take(result, runner)


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

    Returns:
        All records by name, and bytes read.

    Raises:
        SourceChanged: If a file of an adapter is not the one that was scanned. What is published is
            whole, and of one moment; nothing else was.
    """
    made = {} if made is None else made
    records: Records = {}
    merges: list[_Merge] = []
    bytes_read = 0
    with ExitStack() as held:
        for each in planned:
            if each.recipe.name in made:
                records[each.recipe.name] = made[each.recipe.name]
                continue
            held.enter_context(journal.failures(each.plan.digest, attempt.goes_on_after))
            store = open_store(each.output)
            checkpoints = Checkpoints(store, each.plan, attempt.given_up)
            done = published_merge(store, each.plan)
            if done and (catalog is None or has_merge(catalog, done["merge_id"])):
                checkpoints.clear()
                record = record_of_published(done, each.output, catalog, 0, started)
                records[each.recipe.name] = {
                    **record,
                    **set_aside(each.plan.passed_over, each.plan.adapters),
                }
                continue
            checkpoints.check()
            run = PlanRun(
                each.plan,
                each.inventory,
                checkpoints,
                memory_budget=memory_budget,
                strict=attempt.strict,
                progress=progress,
            )
            merges.append(_Merge(each, store, checkpoints, run, stages.copy()))
        _check_writable(merges, catalog)
        for merge in merges:
            note_planned(merge.planned.plan)
            held.enter_context(merge.checkpoints.held(catalog.uri if catalog else None))
        try:
            solved = _solve(merges, runner, memory_budget, catalog, started, tenure)
            for merge, record, read in solved:
                name = merge.planned.recipe.name
                records[name] = made[name] = record
                bytes_read += read
        except SourceChanged as error:
            attempt.bytes_read += bytes_read
            for merge in merges:
                if merge.planned.recipe.name not in made:
                    attempt.bytes_read += merge.run.bytes_read
                    merge.checkpoints.give_up(
                        not attempt.goes_on_after(error) and merge.has(error.adapter)
                    )
            raise
    return records, bytes_read


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
    tenure: Tenure | None,
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
        # All of a round are held against their sources before one is published.
        ended = [(merge, merge.run.end()) for merge in left]
        left = [merge for merge, solved in ended if solved is None]
        for merge, solved in ended:
            if solved is None:
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
                tenure=tenure,
            )
            yield merge, record, bytes_read + solved.bytes_read
            bytes_read = 0


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
