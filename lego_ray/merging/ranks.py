"""Says which ranks were chosen by measuring."""

from __future__ import annotations

from lego_ray import journal
from lego_ray.planning.plan import Plan


def note_ranks(measured: Plan, plan: Plan) -> None:
    """Logs what was chosen."""
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
