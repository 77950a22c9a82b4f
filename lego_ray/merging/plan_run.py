"""One plan on the road: what earlier runs finished, what is left, and the plan that it turns into."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from lego_ray.catalog.tables import Catalog
from lego_ray.errors import LegoRayError
from lego_ray.formats.merged import check_storable
from lego_ray.lazy import np
from lego_ray.merging.bad_adapters import bad_adapters, without_bad
from lego_ray.merging.finish import Merged
from lego_ray.merging.lineage import Lineage
from lego_ray.merging.notes import note_done, note_ranks, note_resumed
from lego_ray.merging.record import MergeRecord
from lego_ray.merging.solved import Solved, contents_of, merged_of, solved_of
from lego_ray.merging.stages import Stages
from lego_ray.output.checkpoints.checkpoints import Checkpoints
from lego_ray.planning.inventory import Inventory
from lego_ray.planning.plan import Plan
from lego_ray.planning.planner import make_plan
from lego_ray.planning.source_changes import Attempt
from lego_ray.runners.base import Runner
from lego_ray.runners.ray.metrics import RunMetrics
from lego_ray.sources.confirm import confirm
from lego_ray.storage.base import Store
from lego_ray.tasks.cut import tasks_of
from lego_ray.tasks.passes import Following, first_pass
from lego_ray.tasks.values import Progress, SolveTask, TaskResult


class PlanRun:
    """A merge of all its adapters; see `merging.base.Run`.

    If weights turn out bad, which no header can show, the plan without them is next; and after a plan
    whose ranks are open, which measures, the one that merges at the ranks chosen by that.
    """

    resumed_sites = 0

    def __init__(
        self,
        plan: Plan,
        inventory: Inventory,
        store: Store,
        stages: Stages,
        attempt: Attempt,
        *,
        catalog: Catalog | None,
        memory_budget: int,
        progress: Progress,
        more: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Looks at nothing yet.

        Args:
            plan: The plan as it was asked for.
            inventory: The adapters it was made of.
            store: The output.
            stages: Where the run's time went so far.
            attempt: Which try of the run this is.
            catalog: Where it will be recorded, or None.
            memory_budget: Most bytes one worker may take.
            progress: Called with each plan that is run (result None), and with each result.
            more: What else its manifest says; see `manifest_of`.
        """
        self.name = plan.recipe.name
        self.asked = self.plan = plan
        self.store = store
        self.checkpoints = Checkpoints(store, plan, attempt.given_up)
        self.stages = stages
        self.bytes_read = 0
        self._catalog = catalog
        self._inventory = inventory
        self._memory_budget = memory_budget
        self._strict = attempt.strict
        self._progress = progress
        self._more = more
        self._number = 0

    @property
    def stage(self) -> str:
        """What the plan is for: `measure` while its ranks are open, then `solve`."""
        return first_pass(self.plan.recipe).stage

    def held(self, catalog: str | None) -> AbstractContextManager[None]:
        """Marks the output, so that results may be kept there."""
        return self.checkpoints.held(catalog)

    def begin(self) -> None:
        """Takes what earlier runs of the plan have done; next, what `tasks` gives is to be run.

        Raises:
            SourceChanged: If a configuration is not the one that was scanned.
            InvalidOption: If what is kept does not fit the element type to store.
        """
        self._number += 1
        self._fresh: list[TaskResult] = []
        self._metrics: RunMetrics | None = None
        self._following: Following | None = None
        self._progress(self.plan, None)
        self._kept = self.checkpoints.load(self.plan)
        self.bytes_read += self._kept.bytes_read
        self.resumed_sites = sum(len(result.sites) for result in self._kept.results)
        if len(self._kept.done) < self.plan.n_sites:
            confirm(self.plan.adapters, weights=False)
        if self._kept.done:
            note_resumed(self.plan, self._kept)
        self._msus = Lineage(self.plan, self.store, self._catalog)
        for result in self._kept.results:
            _check_storable(self.plan, result)
            self._progress(self.plan, replace(result, bytes_read=0, requests=0, seconds=0.0))
        self._kept = replace(self._kept, results=tuple(map(self._msus.taken, self._kept.results)))

    def tasks(self) -> Iterator[SolveTask]:
        """What is left of the plan."""
        if len(self._kept.done) < self.plan.n_sites:
            full_weights = not self._kept.full_weights
            keeper = self.checkpoints.keeper(self.plan, self._number, self._msus.target())
            for task in tasks_of(self.plan, self._kept.done, full_weights=full_weights):
                yield replace(task, keeper=keeper)

    def take(self, result: TaskResult, runner: Runner) -> None:
        """Keeps the result of one of the tasks.

        Args:
            result: The result.
            runner: What ran it.

        Raises:
            InvalidOption: If the element type to store cannot hold it; it is kept all the same.
        """
        if runner.name == "ray":  # and connected, since it has a result
            self._metrics = self._metrics or RunMetrics(self.plan)
            self._metrics.record(result)
        if result.kept:
            self.checkpoints.was_kept()
        else:
            covers = [
                site.site
                for site in self.plan.tasks[result.index].sites
                if site.site not in self._kept.done
            ]
            self.checkpoints.save(self.plan, self._number, covers, result)
        self._fresh.append(self._msus.taken(result))
        self.bytes_read += result.bytes_read
        note_done(self.plan, result, len(self._kept.results) + len(self._fresh))
        self._progress(self.plan, result)
        _check_storable(self.plan, result)

    def bad(self) -> Mapping[str, LegoRayError]:
        """Adapters that turned out bad."""
        return bad_adapters(self.plan.adapters, self._results)

    def is_last(self) -> bool:
        """Whether the plan merged; if it measured, another is next.

        Raises:
            SitesFailed: If a site is missing from the results.
            SourceChanged: If a file of an adapter is not the one that was scanned.
        """
        work = first_pass(self.plan.recipe)
        self._following = work.then(self.asked.recipe, self.plan, self._results)
        if self._following is None:
            confirm(self.plan.adapters)
            self._solved: Solved = solved_of(self.plan, self._results)
        return self._following is None

    def plan_again(self, bad: Mapping[str, LegoRayError]) -> None:
        """Plans without bad adapters, from the first pass on; or the next pass.

        Raises:
            NoAdaptersFound: If no adapter is left.
            InvalidOption: If the merge fits no worker at the ranks chosen.
            StrictRefusal: If strict and an adapter turned out bad.
        """
        before = self.plan
        if self._following is not None:
            self.plan = self._following.plan(self._inventory, self._memory_budget)
            note_ranks(before, self.plan)
            return
        contents = contents_of(before, self._results)
        self._inventory = without_bad(before, self._inventory, bad, self._strict, contents)
        self.plan = make_plan(
            self.asked.recipe,
            self._inventory,
            sources=sorted(bad),
            memory_budget=self._memory_budget,
        )

    def merged(self) -> Merged:
        """The merge, under the names that its publishing was begun with, if it was."""
        merged = merged_of(self._solved, self.asked.digest, self.store, self._more)
        return replace(merged, msus=self._msus.files)

    def full_record(self, record: MergeRecord, published: Mapping[str, Any] | None) -> MergeRecord:
        """The record as it is."""
        return record

    @property
    def _results(self) -> tuple[TaskResult, ...]:
        """Those of earlier runs, and then this one's in the plan's order."""
        return (*self._kept.results, *sorted(self._fresh, key=lambda result: result.index))


def _check_storable(plan: Plan, result: TaskResult) -> None:
    """Passes a result that the plan's element type can hold: known at the first task, not after all."""
    for site in result.sites:
        for half, values in (("A", site.a), ("B", site.b)):
            if values.size:
                name = f"factor {half} of {site.plan.site}"
                check_storable(float(np.abs(values).max()), plan.dtype, name)
