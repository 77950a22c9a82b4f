"""The one road of `merge`, `build`, `refresh` and `update`: planned merges, side by side, to their end.

Already published? -> hold the output -> run tasks -> bad adapters out, plan again -> files -> rows ->
record.
One merge is a library of one. Where merges need the same bytes, one read serves all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from logging import ERROR
from typing import Any

from lego_ray import journal
from lego_ray.catalog.opening import check_outside_tables, check_store, has_merge
from lego_ray.catalog.tables import Catalog
from lego_ray.catalog.tenure import Tenure
from lego_ray.errors import BadInput, SourceChanged, StrictRefusal
from lego_ray.merging.advice import advice_of
from lego_ray.merging.base import Run
from lego_ray.merging.finish import finish
from lego_ray.merging.notes import note_planned, note_published
from lego_ray.merging.record import (
    ALREADY,
    PUBLISHED,
    MergeRecord,
    record_of,
    record_of_published,
)
from lego_ray.output.write import merge_there
from lego_ray.planning.joint import JointPlan, cut_jointly
from lego_ray.planning.source_changes import Attempt
from lego_ray.runners.base import Runner
from lego_ray.runners.open import closing_results
from lego_ray.storage.probe import probe_create_only
from lego_ray.tasks.joint import JointTask, joint_task

Records = dict[str, MergeRecord]


@dataclass(slots=True)
class Road:
    """What the merges of one call share.

    Attributes:
        catalog: Where they are recorded, or None.
        runner: What runs the tasks.
        attempt: Which try of the run this is.
        memory_budget: Most bytes one worker may take.
        started: When the run began, by `time.perf_counter`.
        tenure: The turn at a library, if there are turns: no merge is published or recorded once a later
            turn has begun.
        bytes_before: Bytes that were read for them before this, to be counted in their records.
        failed: Takes the error of each merge that cannot be made as asked, by name, and the others are
            made; None for such an error to end the call.
        bytes_read: Bytes that were read on the road by tasks of several merges together.
    """

    catalog: Catalog | None
    runner: Runner
    attempt: Attempt
    memory_budget: int
    started: float
    tenure: Tenure | None = None
    bytes_before: int = 0
    failed: dict[str, BadInput] | None = None
    bytes_read: int = field(default=0, init=False)
    _ran_by: dict[str, str] = field(default_factory=dict, init=False)
    _lost: dict[str, tuple[str, ...]] = field(default_factory=dict, init=False)

    @property
    def _catalog_uri(self) -> str | None:
        return self.catalog.uri if self.catalog else None

    def make(self, runs: Sequence[Run], made: Records) -> tuple[Records, int]:
        """Makes the merges that are not published yet.

        Args:
            runs: The merges.
            made: Takes the record of each that is published now, when it is.

        Returns:
            All records by name, and bytes read.

        Raises:
            SourceChanged: If a file of an adapter is not the one that was scanned. What is published is
                whole, and of one moment; nothing else was.
            BadInput: If a merge cannot be made as asked; see `failed`. Of merges that all cannot, the
                first one's.
        """
        with ExitStack() as held:
            records = self._published(runs, held)
            begun = [run for run in self._going(runs) if run.name not in records]
            self._check_writable(begun)
            for run in begun:
                note_planned(run.plan)
                held.enter_context(run.held(self._catalog_uri))
            left = begun
            try:
                while left:
                    self._run(left)
                    # All of a round are held against their sources before one is published.
                    ended = []
                    for run in self._going(left):
                        with self._alone(run):
                            if _is_ended(run):
                                ended.append(run)
                    left = [run for run in self._going(left) if run not in ended]
                    if not left:
                        self.runner.stop()  # beside the writing
                    for run in ended:
                        records[run.name] = made[run.name] = self._publish(run)
            except SourceChanged as error:
                self.attempt.bytes_read += self._read(begun)
                for run in begun:
                    if run.name not in made:
                        run.checkpoints.give_up(
                            not self.attempt.goes_on_after(error)
                            and (len(begun) == 1 or _has(run, error.adapter))
                        )
                raise
        if self.failed and not records and not made:
            raise next(iter(self.failed.values()))
        return records, self._read(begun)

    def _going(self, runs: Iterable[Run]) -> list[Run]:
        """Those of some merges that did not fail."""
        return [run for run in runs if run.name not in (self.failed or ())]

    @contextmanager
    def _alone(self, run: Run) -> Iterator[None]:
        """If a merge cannot be made as asked, ends that merge and not the others."""
        try:
            yield
        except BadInput as error:
            if self.failed is None:
                raise
            reason = str(error)
            journal.note(
                "failed", run.asked.digest, ERROR, error=type(error).__name__, reason=reason
            )
            self.failed[run.name] = error

    def _read(self, runs: Sequence[Run]) -> int:
        return self.bytes_read + sum(run.bytes_read for run in runs)

    def _published(self, runs: Sequence[Run], held: ExitStack) -> Records:
        """Records of the merges that are published already; the output of each other one is free.

        Args:
            runs: The merges.
            held: Logs the error that ends one of them.
        """
        records: Records = {}
        for run in runs:
            goes_on = self.attempt.goes_on_after
            held.enter_context(journal.failures(run.asked.digest, goes_on))
            done = None
            with self._alone(run):
                there = merge_there(run.store, run.asked)
                if there and there.is_whole:
                    done = there.manifest
                if not done or (self.catalog and not has_merge(self.catalog, done["merge_id"])):
                    run.checkpoints.check()
                    done = None
                    self._lost[run.name] = there.lost if there else ()
            if done is None:
                continue
            run.checkpoints.clear()  # of a run that was cut short between publishing and this
            journal.note(ALREADY, done["merge_id"], output=run.store.uri)
            record = record_of_published(
                done,
                output=run.store.uri,
                catalog=self._catalog_uri,
                started=self.started,
                bytes_read=self.bytes_before,
                plan=run.asked,
                said=run.asked.recipe.notes,
            )
            records[run.name] = run.full_record(record, done)
        return records

    def _check_writable(self, runs: Sequence[Run]) -> None:
        if self.catalog and runs:
            for run in runs:
                check_outside_tables(self.catalog, run.store.place)
            self.catalog.check_writable()  # reads alone, so it is first
        for run in runs:
            probe_create_only(run.store)
        if self.catalog and runs:
            check_store(self.catalog)

    def _run(self, runs: Sequence[Run]) -> None:
        """Runs what is left of some plans, reads in common first."""
        joint: Sequence[JointPlan] = ()
        if len(runs) > 1:
            plans, joint = cut_jointly([run.plan for run in runs], self.memory_budget)
            for run, plan in zip(runs, plans, strict=True):
                run.plan = plan
        with ExitStack() as timed:
            for run in runs:
                timed.enter_context(run.stages.timed(run.stage))
            for run in runs:
                with self._alone(run):
                    run.begin()
            if joint:
                self._run_together(runs, joint)
                return
            for run in self._going(runs):
                self._take_all(run, run.tasks())

    def _run_together(self, runs: Sequence[Run], joint: Sequence[JointPlan]) -> None:
        going = {run.name for run in self._going(runs)}
        waiting = [
            {task.index: task for task in run.tasks()} if run.name in going else {} for run in runs
        ]
        owners: list[list[int]] = []
        shared: list[JointTask] = []
        for each in joint:
            parts = [(n, waiting[n].pop(index)) for n, index in each.parts if index in waiting[n]]
            if parts:
                owners.append([n for n, _ in parts])
                tasks = [task for _, task in parts]
                shared.append(
                    joint_task(len(shared), each.name, each.peak_bytes, tasks, of=len(joint))
                )
        with closing_results(self.runner, shared) as together:
            for several in together:
                self.bytes_read += several.bytes_read
                for n, part in zip(owners[several.index], several.parts, strict=True):
                    for run in self._going([runs[n]]):
                        with self._alone(run):
                            self._take(run, part)
        for run, left in zip(runs, waiting, strict=True):
            if self._going([run]):
                self._take_all(run, left.values())

    def _take_all(self, run: Run, tasks: Iterable[Any]) -> None:
        with self._alone(run), closing_results(self.runner, tasks) as results:
            for result in results:
                self._take(run, result)

    def _take(self, run: Run, result: Any) -> None:
        run.stages.moved(run.stage, result.bytes_read)
        self._ran_by[run.name] = self.runner.name
        run.take(result, self.runner)

    def _publish(self, run: Run) -> MergeRecord:
        merged = run.merged()
        plan, status = finish(
            merged,
            run.store,
            self.catalog,
            started=self.started,
            stages=run.stages,
            tenure=self.tenure,
        )
        run.checkpoints.clear()
        lost = self._lost.get(run.name, ())
        record = record_of(
            plan,
            status=PUBLISHED if lost else status,
            output=run.store.uri,
            catalog=self._catalog_uri,
            started=self.started,
            bytes_read=self.bytes_before + run.bytes_read,
            resumed_sites=run.resumed_sites,
            runner=self._ran_by.get(run.name),
        )
        again = tuple(f"{key} was missing at the output and was written again" for key in lost)
        advice = advice_of(plan, merged.sites)
        record = replace(record, warnings=(*record.warnings, *again), advice=advice)
        note_published(record, plan, merged.drift)
        return run.full_record(record, None)


def _is_ended(run: Run) -> bool:
    """Sets adapters that turned out bad aside and plans again, unless the merge is worked out."""
    bad = run.bad()
    if not bad and run.is_last():
        return True
    try:
        run.plan_again(bad)
    except (BadInput, StrictRefusal):
        # The way out is another plan, which what is kept would stand in the way of.
        run.checkpoints.clear()
        raise
    note_planned(run.plan)
    return False


def _has(run: Run, uri: str) -> bool:
    return any(adapter.uri == uri for adapter in run.asked.adapters)
