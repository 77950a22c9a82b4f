"""Runs a plan to its end: what is left of it, and again if adapters turn out bad on the way.

Where that was to measure what ranks are chosen by, the merge comes next.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from logging import WARNING
from types import MappingProxyType
from typing import Any, overload

import numpy as np

from lego_ray import journal
from lego_ray.errors import BadInput, LegoRayError, SitesFailed, StrictRefusal
from lego_ray.formats.merged import check_storable
from lego_ray.merging.ranks import note_ranks
from lego_ray.output.checkpoints.checkpoints import Checkpoints, Kept
from lego_ray.planning.inventory import Inventory
from lego_ray.planning.plan import Plan
from lego_ray.planning.planner import make_plan
from lego_ray.runners.base import Runner
from lego_ray.runners.ray.metrics import RunMetrics
from lego_ray.sources.confirm import confirm
from lego_ray.sources.contents import content_hash
from lego_ray.tasks.cut import tasks_of
from lego_ray.tasks.joint import JointResult, JointTask
from lego_ray.tasks.passes import first_pass
from lego_ray.tasks.update import UpdateResult, UpdateTask
from lego_ray.tasks.values import SiteResult, SolveTask, TaskResult

Progress = Callable[[Plan, TaskResult | None], None]


@dataclass(frozen=True, slots=True)
class Solved:
    """A plan that ran through, and everything it gave.

    Attributes:
        plan: The plan that merged, without adapters that turned out bad.
        sites: Its sites, in its order.
        results: What they came in.
        bytes_read: Bytes of tensors this run read, to measure and for plans given up included.
        resumed_sites: Sites taken from earlier runs.
    """

    plan: Plan
    sites: tuple[SiteResult, ...]
    results: tuple[TaskResult, ...]
    bytes_read: int
    resumed_sites: int


class PlanRun:
    """One plan on its way: what is left of it, and the plan it turns into.

    If weights turn out bad, which no header can show, the plan without them is next; and after a plan
    whose ranks are open, which measures, the one that merges at the ranks chosen by that.
    """

    def __init__(
        self,
        plan: Plan,
        inventory: Inventory,
        checkpoints: Checkpoints,
        *,
        memory_budget: int,
        strict: bool,
        progress: Progress,
    ) -> None:
        """Looks at nothing yet.

        Args:
            plan: The plan as it was asked for.
            inventory: The adapters it was made of.
            checkpoints: Where its results are kept.
            memory_budget: Most bytes one worker may take.
            strict: Whether an adapter that turns out bad fails the run.
            progress: Called with each plan that is run (result None), and with each result.
        """
        self.plan = plan
        self._asked = plan.recipe
        self._inventory = inventory
        self._checkpoints = checkpoints
        self._memory_budget = memory_budget
        self._strict = strict
        self._progress = progress
        self._number = 0
        self._bytes_read = 0

    @property
    def bytes_read(self) -> int:
        """Bytes of tensors read so far."""
        return self._bytes_read

    @property
    def stage(self) -> str:
        """What the plan is for: `measure` while its ranks are open, then `solve`."""
        return first_pass(self.plan.recipe).stage

    def begin(self) -> None:
        """Takes what earlier runs of the plan have done; next, what `tasks` gives is to be run.

        Raises:
            SourceChanged: If a configuration is not the one that was scanned.
            InvalidOption: If what is kept does not fit the element type to store.
        """
        self._number += 1
        self._fresh: list[TaskResult] = []
        self._metrics: RunMetrics | None = None
        self._progress(self.plan, None)
        self._kept = self._checkpoints.load(self.plan)
        self._bytes_read += self._kept.bytes_read
        if len(self._kept.done) < self.plan.n_sites:
            confirm(self.plan.adapters, weights=False)
        if self._kept.done:
            _note_resumed(self.plan, self._kept)
        for result in self._kept.results:
            _check_storable(self.plan, result)
            self._progress(self.plan, replace(result, bytes_read=0, requests=0, seconds=0.0))

    def tasks(self) -> Iterator[SolveTask]:
        """What is left of the plan."""
        if len(self._kept.done) < self.plan.n_sites:
            full_weights = not self._kept.full_weights
            yield from tasks_of(self.plan, self._kept.done, full_weights=full_weights)

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
        covers = [
            site.site
            for site in self.plan.tasks[result.index].sites
            if site.site not in self._kept.done
        ]
        self._checkpoints.save(self.plan, self._number, covers, result)
        self._fresh.append(result)
        self._bytes_read += result.bytes_read
        _note_done(self.plan, result)
        self._progress(self.plan, result)
        _check_storable(self.plan, result)

    def end(self) -> Solved | None:
        """What came out once all tasks are done; None if another plan is next, for `begin`.

        Raises:
            NoAdaptersFound: If no adapter is left; nothing is kept.
            InvalidOption: If the merge fits no worker at the ranks chosen; nothing is kept.
            StrictRefusal: If strict and an adapter turned out bad; nothing is kept.
            SitesFailed: If a site is missing from the results.
            SourceChanged: If a file of an adapter is not the one that was scanned.
        """
        plan = self.plan
        results = (*self._kept.results, *sorted(self._fresh, key=lambda r: r.index))
        bad = bad_adapters(plan, results)
        following = None if bad else first_pass(plan.recipe).then(self._asked, plan, results)
        if not bad and following is None:
            confirm(plan.adapters)
            return Solved(
                plan=plan,
                sites=_in_order(plan, results),
                results=results,
                bytes_read=self._bytes_read,
                resumed_sites=sum(len(result.sites) for result in self._kept.results),
            )
        try:
            if following is None:
                contents = contents_of(plan, results)
                self._inventory = without_bad(plan, self._inventory, bad, self._strict, contents)
                self.plan = make_plan(
                    self._asked,
                    self._inventory,
                    sources=sorted(bad),
                    memory_budget=self._memory_budget,
                )
            else:
                self.plan = following.plan(self._inventory, self._memory_budget)
                note_ranks(plan, self.plan)
        except (BadInput, StrictRefusal):
            # The way out is another plan, which what is kept would stand in the way of.
            self._checkpoints.clear()
            raise
        note_planned(self.plan)
        return None


@overload
def closing_results(
    runner: Runner, tasks: Iterable[SolveTask]
) -> AbstractContextManager[Iterator[TaskResult]]: ...


@overload
def closing_results(
    runner: Runner, tasks: Iterable[JointTask]
) -> AbstractContextManager[Iterator[JointResult]]: ...


@overload
def closing_results(
    runner: Runner, tasks: Iterable[UpdateTask]
) -> AbstractContextManager[Iterator[UpdateResult]]: ...


@contextmanager
def closing_results(runner: Runner, tasks: Iterable[Any]) -> Iterator[Iterator[Any]]:
    """Results of some tasks; if there are none, nothing is run.

    An error in the block cancels what is running at once, not when the last reference to it is gone.
    """
    waiting = iter(tasks)
    first = next(waiting, None)
    results = iter(()) if first is None else runner.run(chain([first], waiting))
    try:
        yield results
    finally:
        if isinstance(results, Generator):
            results.close()


def contents_of(plan: Plan, results: Sequence[TaskResult]) -> dict[str, str]:
    """Hex sha256 over the tensors that were read of each adapter, by URI.

    Args:
        plan: The plan.
        results: All of its results.
    """
    found = tensors_of(plan, results)
    return {a.uri: content_hash(found[number]) for number, a in enumerate(plan.adapters)}


def tensors_of(plan: Plan, results: Sequence[TaskResult]) -> dict[int, set[tuple[str, str]]]:
    """Name and hex sha256 of the tensors that were read of each adapter, by its number in the plan.

    Args:
        plan: The plan.
        results: All of its results; those of runs that cut their tasks differently may share tensors.
    """
    found: dict[int, set[tuple[str, str]]] = {number: set() for number in range(len(plan.adapters))}
    for result in results:
        for number, tensors in result.tensor_hashes.items():
            found[number].update(tensors)
    return found


def without_bad(
    plan: Plan,
    inventory: Inventory,
    bad: Mapping[str, LegoRayError],
    strict: bool,
    contents: Mapping[str, str] = MappingProxyType({}),
) -> Inventory:
    """The inventory without adapters that a plan's results say are bad.

    Args:
        plan: The plan.
        inventory: What it was made of.
        bad: What is wrong with each, by URI.
        strict: Whether one fails the run.
        contents: From `contents_of`.

    Raises:
        StrictRefusal: If strict.
    """
    for uri, error in sorted(bad.items()):
        journal.note("adapter quarantined", plan.digest, WARNING, adapter=uri, reason=error.problem)
    inventory = inventory.quarantine(bad, contents)
    check_strict(inventory, strict)
    return inventory


def note_planned(plan: Plan) -> None:
    """Logs what is about to be run."""
    journal.note(
        "run planned",
        plan.digest,
        name=plan.recipe.name,
        method=plan.recipe.method,
        rank=plan.recipe.rank_asked,
        adapters=len(plan.adapters),
        refused=len(plan.refused),
        sites=plan.n_sites,
        tasks=len(plan.tasks),
        bytes=plan.read_bytes,
    )


def check_strict(inventory: Inventory, strict: bool) -> None:
    """Raises `StrictRefusal` if strict and an adapter was refused."""
    if strict and inventory.refused:
        first = inventory.refused[0]
        raise StrictRefusal(
            first.uri,
            f"{len(inventory.refused)} adapters were refused and --strict was given; this one "
            f"because {first.reason.rstrip('.')}",
            "Fix or --exclude them, or run without --strict.",
        )


def _check_storable(plan: Plan, result: TaskResult) -> None:
    """Passes a result that the plan's element type can hold: known at the first task, not after all."""
    for site in result.sites:
        for half, values in (("A", site.a), ("B", site.b)):
            if values.size:
                name = f"factor {half} of {site.plan.site}"
                check_storable(float(np.abs(values).max()), plan.dtype, name)


def _note_resumed(plan: Plan, kept: Kept) -> None:
    journal.note(
        "run resumed",
        plan.digest,
        sites_done=len(kept.done),
        sites=plan.n_sites,
        tasks=len(kept.results),
    )


def _note_done(plan: Plan, result: TaskResult) -> None:
    told: dict[str, Any] = {} if result.inertia is None else {"inertia": result.inertia}
    journal.note(
        first_pass(plan.recipe).done,
        plan.digest,
        name=plan.tasks[result.index].name,
        sites=result.n_sites,
        bytes=result.bytes_read,
        requests=result.requests,
        seconds=round(result.seconds, 3),
        retries=result.retries,
        **told,
    )


def bad_adapters(plan: Plan, results: Sequence[TaskResult]) -> dict[str, LegoRayError]:
    """URI of each adapter that turned out bad, with the reason that does not depend on who was first."""
    bad: dict[str, LegoRayError] = {}
    for result in results:
        for number, error in result.quarantined.items():
            uri = plan.adapters[number].uri
            bad[uri] = min(bad.get(uri, error), error, key=str)
    return bad


def _in_order(plan: Plan, results: Sequence[TaskResult]) -> tuple[SiteResult, ...]:
    found = {site.plan.site: site for result in results for site in result.sites}
    missing = [s.site for g in plan.tasks for s in g.sites if s.site not in found]
    if missing:
        raise SitesFailed(
            plan.digest[:12],
            f"{len(missing)} of {plan.n_sites} were not solved, {missing[0]} first",
        )
    return tuple(found[s.site] for g in plan.tasks for s in g.sites)
