"""Makes planned merges side by side: tasks over one read serve all of them, each published when done.

The one road of `merge`, `build` and `refresh`: one merge is a library of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from lego_ray import journal
from lego_ray.catalog.opening import has_merge
from lego_ray.catalog.tables import Catalog
from lego_ray.catalog.tenure import Tenure
from lego_ray.errors import SourceChanged
from lego_ray.merging.plan_run import (
    PlanRun,
    Progress,
    closing_results,
    note_planned,
)
from lego_ray.merging.planned import Planned
from lego_ray.merging.record import ALREADY, MergeRecord, record_of_published
from lego_ray.merging.solved import publish_solved
from lego_ray.merging.stages import Stages
from lego_ray.output.checkpoints.checkpoints import Checkpoints
from lego_ray.output.write import published_merge
from lego_ray.planning.joint import JointPlan, cut_jointly
from lego_ray.planning.source_changes import Attempt
from lego_ray.runners.base import Runner
from lego_ray.storage.base import Store
from lego_ray.storage.open import open_store
from lego_ray.storage.probe import probe_create_only
from lego_ray.tasks.joint import JointTask, joint_task
from lego_ray.tasks.values import SolveTask, TaskResult

Records = dict[str, MergeRecord]


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

    def take(self, result: TaskResult, runner: Runner) -> None:
        """Keeps the result of one of its tasks."""
        self.stages.moved(self.run.stage, result.bytes_read)
        self.run.take(result, runner)

    def take_all(self, tasks: Iterable[SolveTask], runner: Runner) -> None:
        """Runs tasks of its own, and keeps each result when it arrives."""
        with closing_results(runner, tasks) as results:
            for result in results:
                self.take(result, runner)


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
        more: What their manifests say besides; see `manifest_of`.
        bytes_before: Bytes that were read for them before this, to be counted in their records.

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
                checkpoints.clear()  # of a run that was cut short between publishing and this
                journal.note(ALREADY, done["merge_id"], output=each.output)
                records[each.recipe.name] = record_of_published(
                    done,
                    output=each.output,
                    catalog=catalog.uri if catalog else None,
                    started=started,
                    bytes_read=bytes_before,
                    plan=each.plan,
                )
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
            solved = _solve(
                merges, runner, memory_budget, catalog, started, tenure, more, bytes_before
            )
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
                        not attempt.goes_on_after(error)
                        and (len(merges) == 1 or merge.has(error.adapter))
                    )
            raise
    return records, bytes_read


def _check_writable(merges: Sequence[_Merge], catalog: Catalog | None) -> None:
    if not merges:
        return
    if catalog:
        catalog.check_writable()
    for merge in merges:
        probe_create_only(merge.store)
    if catalog:
        probe_create_only(open_store(catalog.uri))


def _solve(
    merges: Sequence[_Merge],
    runner: Runner,
    memory_budget: int,
    catalog: Catalog | None,
    started: float,
    tenure: Tenure | None,
    more: Mapping[str, Any],
    bytes_before: int,
) -> Iterator[tuple[_Merge, MergeRecord, int]]:
    """Runs all merges side by side, in rounds; publishes each when it is done.

    Yields:
        A merge, its record, and the bytes read since the one before.
    """
    left, bytes_read = list(merges), 0
    while left:
        joint: Sequence[JointPlan] = ()
        if len(left) > 1:
            plans, joint = cut_jointly([merge.run.plan for merge in left], memory_budget)
            for merge, plan in zip(left, plans, strict=True):
                merge.run.plan = plan
        with ExitStack() as timed:
            for merge in left:
                timed.enter_context(merge.stages.timed(merge.run.stage))
            for merge in left:
                merge.run.begin()
            bytes_read += _run_together(left, joint, runner) if joint else 0
            if not joint:
                for merge in left:
                    merge.take_all(merge.run.tasks(), runner)
        # All of a round are held against their sources before one is published.
        ended = [(merge, merge.run.end()) for merge in left]
        left = [merge for merge, solved in ended if solved is None]
        if not left:
            runner.stop()  # beside the writing
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
                bytes_read=bytes_before + solved.bytes_read,
                stages=merge.stages,
                more=more,
                tenure=tenure,
            )
            yield merge, record, bytes_read + solved.bytes_read
            bytes_read = 0


def _run_together(merges: Sequence[_Merge], joint: Sequence[JointPlan], runner: Runner) -> int:
    """Runs what is left of some plans, reads in common first; returns the bytes of these."""
    waiting = [{task.index: task for task in merge.run.tasks()} for merge in merges]
    owners: list[list[int]] = []
    shared: list[JointTask] = []
    for each in joint:
        parts = [(n, waiting[n].pop(index)) for n, index in each.parts if index in waiting[n]]
        if parts:
            owners.append([n for n, _ in parts])
            tasks = [task for _, task in parts]
            shared.append(joint_task(len(shared), each.name, each.peak_bytes, tasks))
    bytes_read = 0
    with closing_results(runner, shared) as together:
        for several in together:
            bytes_read += several.bytes_read
            for n, part in zip(owners[several.index], several.parts, strict=True):
                merges[n].take(part, runner)
    for merge, tasks_left in zip(merges, waiting, strict=True):
        merge.take_all(tasks_left.values(), runner)
    return bytes_read
