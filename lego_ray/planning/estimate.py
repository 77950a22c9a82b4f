"""What a plan's arithmetic takes in this process and on Ray, from its own estimates."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from lego_ray.planning.task_plans import WORKER_BYTES, TaskPlan

# From starting a local Ray until its workers compute. Each of them loads torch.
RAY_START_SECONDS = 6.0
# A run that takes this many times Ray's start is done on Ray in any case: Ray replaces a worker that
# dies, while a process that dies ends the run.
LONG = 10


def cores() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Estimate:
    """What the tasks added so far take. Tasks are added one by one, so a run need not hold them all."""

    def __init__(self, memory_budget: int, n_cores: int | None = None) -> None:
        """Starts with no task.

        Args:
            memory_budget: Most bytes that one worker may take, or this process.
            n_cores: How many tasks compute at once, here or on Ray; None for the CPUs of this machine.
        """
        self.seconds = 0.0
        self._cores = n_cores or cores()
        self._room = max(1, memory_budget - WORKER_BYTES)
        self._seconds_here = 0.0

    def add(self, tasks: Iterable[TaskPlan]) -> None:
        """Adds tasks: their seconds on one core, and in this process, where memory may bound them."""
        for task in tasks:
            seconds = sum(site.seconds for site in task.sites)
            self.seconds += seconds
            share = 1.0 if task.shards else (task.peak_bytes - WORKER_BYTES) / self._room
            self._seconds_here += seconds * min(1.0, max(1 / self._cores, share))

    @property
    def ray_pays(self) -> bool:
        """Whether a local Ray is worth its start. Once it is, it stays so whatever is added."""
        on_ray = self.seconds / self._cores
        saved = self._seconds_here - on_ray
        return saved > RAY_START_SECONDS or on_ray > LONG * RAY_START_SECONDS

    @property
    def runner(self) -> str:
        """The runner that `--runner auto` takes."""
        return "ray" if self.ray_pays else "inline"


def estimated(
    tasks: Iterable[TaskPlan], memory_budget: int, n_cores: int | None = None
) -> Estimate:
    """The estimate of some tasks; see `Estimate`."""
    estimate = Estimate(memory_budget, n_cores)
    estimate.add(tasks)
    return estimate


def plans_of(task: Any) -> Iterable[TaskPlan]:
    """The plans with a task's sites; of one that several merges share, each one's."""
    return [part.plan for part in getattr(task, "parts", ())] or [task.plan]
