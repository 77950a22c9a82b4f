"""What Ray says of a placement group that work waits for, in words."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from lego_ray.runners.ray.room import needs

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup

# By Ray's state of the scheduling of a group that is pending or rescheduling.
_REASONS = {
    "QUEUED": "Ray has not tried to place it yet",
    "SCHEDULING_STARTED": "Ray is placing it",
    "NO_RESOURCES": "the nodes that are up have no room for all of it now",
    "INFEASIBLE": "infeasible on the nodes that are up",
}
_WAITING = ("PENDING", "RESCHEDULING")


def state_of(group: PlacementGroup) -> str:
    """The state of a placement group and what it asks for; empty if Ray does not tell.

    For example `pending, infeasible on the nodes that are up; it asks for 3 x (1 CPU and 0.40 GiB)`.

    Args:
        group: The group.
    """
    table = _table_of(group)
    if not table.get("state"):
        return ""
    state = table["state"].lower()
    if table["state"] == "RESCHEDULING":
        state += " since it lost a node"
    reason = _REASONS.get(table["stats"]["scheduling_state"], "")
    if reason and table["state"] in _WAITING:
        state += f", {reason}"
    return f"{state}; it asks for {bundles_in_words(table['bundles'].values())}"


def is_created(group: PlacementGroup) -> bool:
    """Whether a placement group has its place on the cluster.

    Args:
        group: The group.
    """
    return bool(_table_of(group).get("state") == "CREATED")


def bundles_in_words(bundles: Any) -> str:
    """Bundles in their order, alike ones counted: `2 x (1 CPU and 0.40 GiB), 1 x (1 CPU)`.

    Args:
        bundles: What each reserves.
    """
    counted = Counter(needs([dict(bundle)]) or "nothing" for bundle in bundles)
    return ", ".join(f"{count} x ({said})" for said, count in counted.items())


def group_of_this_task() -> PlacementGroup | None:
    """The placement group that tasks of this process run in too; None for most processes.

    That is so if this process is itself a task or an actor of Ray whose group captures its child tasks.
    """
    import ray
    from ray.util.placement_group import get_current_placement_group

    if not ray.get_runtime_context().should_capture_child_tasks_in_placement_group:
        return None
    return get_current_placement_group()


def _table_of(group: PlacementGroup) -> dict[str, Any]:
    from ray.util import placement_group_table

    with suppress(Exception):  # a head that is busy or gone: the rest of the sentence is still true
        return dict(placement_group_table(group))
    return {}
