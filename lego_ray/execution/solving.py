"""Runs a plan to its end: what is left of it, and again if adapters turn out bad on the way.

Where that was to measure what ranks are chosen by, the merge comes next.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from logging import WARNING

from lego_ray.errors import BadInput, LegoRayError, SitesFailed, StrictRefusal
from lego_ray.execution import journal
from lego_ray.execution.on_ray.metrics import RunMetrics
from lego_ray.execution.ranking import note_ranks, ranked_plan, spectra_of
from lego_ray.execution.resume.checkpoints import Checkpoints, Kept
from lego_ray.execution.runner import Runner
from lego_ray.execution.task import GroupResult, SiteResult, tasks_of
from lego_ray.planning.inventory import Inventory
from lego_ray.planning.plan import Plan
from lego_ray.planning.planner import make_plan

Progress = Callable[[Plan, GroupResult | None], None]


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
    results: tuple[GroupResult, ...]
    bytes_read: int
    resumed_sites: int


def solve_plan(
    plan: Plan,
    inventory: Inventory,
    runner: Runner,
    checkpoints: Checkpoints,
    *,
    memory_budget: int,
    strict: bool,
    progress: Progress,
) -> Solved:
    """Runs a plan; again without them if weights turn out bad, which no header can show.

    A plan whose ranks are open is measured, and then the one run that has the ranks chosen by that.

    Raises:
        NoAdaptersFound: If no adapter is left; nothing is kept.
        InvalidOption: If the merge fits no worker at the ranks chosen; nothing is kept.
        StrictRefusal: If strict and an adapter turned out bad; nothing is kept.
        SitesFailed: If a site is missing from the results.
    """
    asked, bytes_read, number = plan.recipe, 0, 1
    while True:
        progress(plan, None)
        kept = checkpoints.load(plan)
        if kept.done:
            _note_resumed(plan, kept)
        for result in kept.results:
            progress(plan, replace(result, bytes_read=0, requests=0, seconds=0.0))
        fresh = _run_rest(plan, number, kept, runner, checkpoints, progress)
        bytes_read += sum(result.bytes_read for result in fresh)
        results = (*kept.results, *sorted(fresh, key=lambda r: r.index))
        bad = bad_adapters(plan, results)
        if not bad and not plan.recipe.is_open:
            return Solved(
                plan=plan,
                sites=_in_order(plan, results),
                results=results,
                bytes_read=bytes_read,
                resumed_sites=sum(len(result.sites) for result in kept.results),
            )
        try:
            if bad:
                inventory = without_bad(plan, inventory, bad, strict)
                plan = make_plan(asked, inventory, sources=sorted(bad), memory_budget=memory_budget)
            else:
                measured, spectra = plan, spectra_of(plan, results)
                plan = ranked_plan(asked, inventory, spectra, memory_budget)
                note_ranks(measured, plan)
        except (BadInput, StrictRefusal):
            # The way out is another plan, which what is kept would stand in the way of.
            checkpoints.clear()
            raise
        number += 1
        note_planned(plan)


def without_bad(
    plan: Plan, inventory: Inventory, bad: dict[str, LegoRayError], strict: bool
) -> Inventory:
    """The inventory without adapters that a plan's results say are bad.

    Raises:
        StrictRefusal: If strict.
    """
    for uri, error in sorted(bad.items()):
        journal.note("adapter quarantined", plan.digest, WARNING, adapter=uri, reason=error.problem)
    inventory = inventory.quarantine(bad)
    check_strict(inventory, strict)
    return inventory


def _run_rest(
    plan: Plan,
    number: int,
    kept: Kept,
    runner: Runner,
    checkpoints: Checkpoints,
    progress: Progress,
) -> list[GroupResult]:
    """Runs what is left of a plan, each result saved as it comes."""
    fresh: list[GroupResult] = []
    if len(kept.done) == plan.n_sites:
        return fresh
    results = runner.run(tasks_of(plan, kept.done, full_weights=not kept.full_weights))
    metrics = None
    try:
        for result in results:
            if runner.name == "ray":  # and connected, since it has a result
                metrics = metrics or RunMetrics(plan)
                metrics.record(result)
            checkpoints.save(plan, number, _covered(plan, kept, result), result)
            fresh.append(result)
            _note_done(plan, result)
            progress(plan, result)
    finally:
        # An error cancels what is running now, not when the last reference to it is gone.
        if isinstance(results, Generator):
            results.close()
    return fresh


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
        tasks=len(plan.groups),
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
            "Mend or --exclude them, or run without --strict.",
        )


def _note_resumed(plan: Plan, kept: Kept) -> None:
    journal.note(
        "run resumed",
        plan.digest,
        sites_done=len(kept.done),
        sites=plan.n_sites,
        tasks=len(kept.results),
    )


def _note_done(plan: Plan, result: GroupResult) -> None:
    journal.note(
        "task measured" if plan.recipe.is_open else "task done",
        plan.digest,
        name=plan.groups[result.index].name,
        sites=len(result.sites) + len(result.spectra),
        bytes=result.bytes_read,
        requests=result.requests,
        seconds=round(result.seconds, 3),
        inertia=sum(site.inertia or 0.0 for site in result.sites),
    )


def _covered(plan: Plan, kept: Kept, result: GroupResult) -> list[str]:
    """Names of the sites a task was to solve."""
    return [s.site for s in plan.groups[result.index].sites if s.site not in kept.done]


def bad_adapters(plan: Plan, results: Sequence[GroupResult]) -> dict[str, LegoRayError]:
    """URI of each adapter that turned out bad, with the reason that does not hang on who was first."""
    bad: dict[str, LegoRayError] = {}
    for result in results:
        for number, error in result.quarantined.items():
            uri = plan.adapters[number].uri
            bad[uri] = min(bad.get(uri, error), error, key=str)
    return bad


def _in_order(plan: Plan, results: Sequence[GroupResult]) -> tuple[SiteResult, ...]:
    found = {site.plan.site: site for result in results for site in result.sites}
    missing = [s.site for g in plan.groups for s in g.sites if s.site not in found]
    if missing:
        raise SitesFailed(
            plan.digest[:12],
            f"{len(missing)} of {plan.n_sites} were not solved, {missing[0]} first",
        )
    return tuple(found[s.site] for g in plan.groups for s in g.sites)
