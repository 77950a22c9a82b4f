"""What a run's log says on the way."""

from __future__ import annotations

from typing import Any

from lego_ray import journal
from lego_ray.merging.record import MergeRecord
from lego_ray.output.checkpoints.checkpoints import Kept
from lego_ray.planning.plan import Plan
from lego_ray.tasks.passes import first_pass
from lego_ray.tasks.values import TaskResult


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


def note_resumed(plan: Plan, kept: Kept) -> None:
    """Logs what earlier runs have done."""
    journal.note(
        "run resumed",
        plan.digest,
        sites_done=len(kept.done),
        sites=plan.n_sites,
        tasks=len(kept.results),
    )


def note_done(plan: Plan, result: TaskResult, done: int) -> None:
    """Logs a task that is done.

    Args:
        plan: The plan.
        result: The task's result.
        done: How many tasks of the plan are done now.
    """
    told: dict[str, Any] = {} if result.inertia is None else {"inertia": result.inertia}
    if result.worker:
        told["node"] = result.worker
    journal.note(
        first_pass(plan.recipe).done,
        plan.digest,
        name=plan.tasks[result.index].name,
        merge=plan.recipe.name,
        done=f"{done} of {len(plan.tasks)}",
        sites=result.n_sites,
        bytes=result.bytes_read,
        requests=result.requests,
        seconds=round(result.seconds, 3),
        retries=result.retries,
        **told,
    )


def note_ranks(measured: Plan, plan: Plan) -> None:
    """Logs the ranks that were chosen by measuring."""
    ranks = [site.rank for task in plan.tasks for site in task.sites]
    journal.note(
        "ranks chosen",
        plan.digest,
        asked=measured.recipe.rank_asked,
        measured=measured.digest[:12],
        least=min(ranks),
        most=max(ranks),
        nearest_error=plan.nearest_error,
    )


def note_published(record: MergeRecord, plan: Plan, drift: float | None) -> None:
    """Logs what became of a merge.

    Args:
        record: Its record.
        plan: Its plan.
        drift: Of an update: how far it is from a full merge.
    """
    told: dict[str, Any] = {"drift": drift} if plan.recipe.parent else {}
    if record.advice:
        told["advice"] = record.advice
    journal.note(
        record.status,
        plan.digest,
        output=record.output,
        adapters=len(record.adapters),
        sites=record.sites,
        seconds=record.seconds,
        bytes_read=record.bytes_read,
        resumed_sites=record.resumed_sites,
        **told,
    )
