"""Runs tasks on Ray: a local one, or a cluster that is already up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from lego_ray.errors import LegoRayError, RunFailed, StoreUnavailable
from lego_ray.execution.ray_session import RaySession, first_line

if TYPE_CHECKING:
    from lego_ray.execution.task import GroupResult, GroupTask

# A worker that dies (out of memory, a lost node) gives its task to another this many times.
TASK_RETRIES = 3


class RayRunner:
    """Runs tasks on Ray, at most one a worker in flight.

    Each task reserves its planned memory, so neither the queue nor finished results grow with the
    job, and Ray places no more on a node than it can hold.
    """

    name = "ray"

    def __init__(self, address: str = "local", workers: int | None = None) -> None:
        """Describes where to run; `start` or `run` connects.

        Args:
            address: `local` starts a Ray, `auto` joins the running cluster, or a cluster's address.
            workers: Most tasks at once; None for one a CPU of the cluster.
        """
        self._session = RaySession(address, workers)
        self._workers = workers

    def start(self) -> None:
        """Begins to bring Ray up."""
        self._session.start()

    def run(self, tasks: Iterable[GroupTask]) -> Iterator[GroupResult]:
        """Yields each task's result as it is done.

        Raises:
            BadInput: If Ray cannot be started or reached.
            RunFailed: If a task failed in a way that is no `LegoRayError`, or lost its worker too
                often.
        """
        self._session.wait()
        yield from self._in_flight(iter(tasks))

    def stop(self) -> None:
        """Begins to take Ray down, if it was started here."""
        self._session.stop()

    def close(self) -> None:
        """Takes Ray down, if it was started here, and waits for it."""
        self._session.close()

    def _in_flight(self, tasks: Iterator[GroupTask]) -> Iterator[GroupResult]:
        import ray

        from lego_ray.execution.solve import solve_group

        slots = self._workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        largest = max(node["Resources"].get("memory", 0) for node in ray.nodes() if node["Alive"])
        remote = ray.remote(solve_group)
        running: dict[Any, GroupTask] = {}
        try:
            while True:
                for task in _take(tasks, slots - len(running)):
                    options = remote.options(
                        num_cpus=1,
                        # A plan estimates from above; for more than its largest node has, Ray
                        # would wait for ever.
                        memory=min(task.group.peak_bytes, int(largest)),
                        max_retries=TASK_RETRIES,
                        retry_exceptions=[StoreUnavailable],
                        name=f"solve {task.group.name}",
                    )
                    running[options.remote(task)] = task
                if not running:
                    return
                done, _ = ray.wait(list(running), num_returns=1)
                yield _result(done[0], running.pop(done[0]))
        finally:
            for reference in running:
                ray.cancel(reference, force=True)


def _take(tasks: Iterator[GroupTask], count: int) -> Iterator[GroupTask]:
    for _ in range(count):
        task = next(tasks, None)
        if task is None:
            return
        yield task


def _result(reference: Any, task: GroupTask) -> GroupResult:
    """The task's result, or the error it raised as it was raised."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        result: GroupResult = ray.get(reference)
        return result
    except RayTaskError as error:
        if isinstance(error.cause, LegoRayError):
            raise error.cause from None
        raise RunFailed(
            f"task {task.group.name}",
            f"{type(error.cause).__name__}: {first_line(error.cause)}",
        ) from error
    except RayError as error:
        raise RunFailed(
            f"task {task.group.name}",
            f"its worker was lost {TASK_RETRIES + 1} times: {first_line(error)}",
            "If it ran out of memory, lower --memory-budget or --workers.",
        ) from error
