"""The default runner: this process, or a local Ray if the work is worth its start."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import chain
from typing import Any

from lego_ray.planning.estimate import Estimate, plans_of
from lego_ray.runners.base import Runner
from lego_ray.runners.inline import InlineRunner


class AutoRunner:
    """Chooses by the estimates of the tasks it is given. The results are the same bits on either."""

    def __init__(self) -> None:
        """Has chosen nothing yet."""
        self._inline = InlineRunner()
        self._ray: Runner | None = None
        self._chosen: Runner | None = None

    @property
    def name(self) -> str:
        """The name of the one that runs the tasks; `auto` before there are any."""
        return self._chosen.name if self._chosen else "auto"

    def start(self) -> None:
        """Has nothing to get ready: what comes is not known yet."""

    def run(self, tasks: Iterable[Any]) -> Iterator[Any]:
        """Yields each task's result; see `Runner.run`."""
        waiting = iter(tasks)
        first: list[Any] = []
        if self._ray is None:
            estimate: Estimate | None = None
            for task in waiting:
                first.append(task)
                estimate = estimate or Estimate(task.memory_budget)
                estimate.add(plans_of(task))
                if estimate.ray_pays:
                    self._ray = self._local_ray()
                    break
        self._chosen = self._ray or self._inline
        return self._chosen.run(chain(first, waiting))

    def stop(self) -> None:
        """Begins to take Ray down, if it was started."""
        if self._ray:
            self._ray.stop()

    def close(self) -> None:
        """Waits until everything that was started has ended."""
        with ExitStack() as both:
            both.callback(self._inline.close)
            if self._ray:
                both.callback(self._ray.close)

    def _local_ray(self) -> Runner:
        from lego_ray.runners.ray.runner import RayRunner

        return RayRunner()
