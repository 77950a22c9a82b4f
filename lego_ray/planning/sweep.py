"""Plans of merges that differ in their rank alone, and what is read for all of them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lego_ray.planning.joint import cut_jointly
from lego_ray.planning.plan import Plan


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """The merges at several ranks, ready to run.

    Attributes:
        plans: The plan of each, as it is by itself, in the order of the ranks.
        read_bytes: Bytes of tensors that are read for all of them together.
        peak_bytes: Most memory one worker takes.
    """

    plans: tuple[Plan, ...]
    read_bytes: int
    peak_bytes: int

    def as_json(self) -> dict[str, Any]:
        """What `plan --json` prints of several ranks."""
        return {
            "plans": [plan.as_json() for plan in self.plans],
            "read_bytes": self.read_bytes,
            "peak_bytes": self.peak_bytes,
        }


def sweep_of(plans: Sequence[Plan], memory_budget: int) -> SweepPlan:
    """The merges at several ranks together, as the run cuts them into tasks.

    Args:
        plans: The plan of each, of the same adapters.
        memory_budget: Most bytes one worker may take.
    """
    if len(plans) == 1:
        [plan] = plans
        return SweepPlan((plan,), plan.read_bytes, plan.peak_bytes)
    cut, joint = cut_jointly(plans, memory_budget)
    shared = {part for each in joint for part in each.parts}
    read = sum(max(cut[n].tasks[index].read_bytes for n, index in each.parts) for each in joint)
    alone = [
        task
        for n, plan in enumerate(cut)
        for index, task in enumerate(plan.tasks)
        if (n, index) not in shared
    ]
    peaks = [each.peak_bytes for each in joint] + [task.peak_bytes for task in alone]
    return SweepPlan(tuple(plans), read + sum(task.read_bytes for task in alone), max(peaks))
