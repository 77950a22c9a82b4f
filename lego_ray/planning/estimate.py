"""What a plan's arithmetic takes in this process and on Ray, from its own estimates."""

from __future__ import annotations

import os
from collections.abc import Iterable

from lego_ray.planning.task_plans import WORKER_BYTES, TaskPlan

# Until a local Ray and its workers, which load torch each, compute.
RAY_START_SECONDS = 6.0
# A run that is this many times as long as Ray's start has it whatever it saves: a worker that dies is
# replaced there, and here the run ends.
LONG = 10


def cores() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Estimate:
    """Grows by a task at a time, for a run need not hold all its tasks to know that they are many."""

    def __init__(self, memory_budget: int, n_cores: int | None = None) -> None:
        """Of no task.

        Args:
            memory_budget: Most bytes one worker may take, and this process in place of one.
            n_cores: How many compute at once, here or on Ray; None for this machine's.
        """
        self.seconds = 0.0
        self._cores = n_cores or cores()
        self._room = max(1, memory_budget - WORKER_BYTES)
        self._memory_seconds = 0.0

    def add(self, tasks: Iterable[TaskPlan]) -> None:
        """Adds what tasks take on one core."""
        for task in tasks:
            seconds = sum(site.seconds for site in task.sites)
            self.seconds += seconds
            share = 1.0 if task.shards else (task.peak_bytes - WORKER_BYTES) / self._room
            self._memory_seconds += seconds * min(1.0, max(0.0, share))

    @property
    def ray_pays(self) -> bool:
        """Whether a local Ray is worth its start. Once it is, more tasks make it no less so."""
        on_ray = self.seconds / self._cores
        here = max(on_ray, self._memory_seconds)  # all that run at once share one worker's memory
        return here > on_ray + RAY_START_SECONDS or on_ray > LONG * RAY_START_SECONDS

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
