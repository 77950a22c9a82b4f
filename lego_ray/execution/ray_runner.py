"""Runs tasks on Ray: a local one, or a cluster that is already up."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lego_ray.errors import BadInput, LegoRayError, RunFailed, StoreUnavailable
from lego_ray.execution.solve import solve_group
from lego_ray.execution.task import GroupResult, GroupTask

# Set before Ray is imported: it reads them then.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
# Workers on one machine share the driver's environment; Ray's warning about it is for GPUs.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray.exceptions import RayError, RayTaskError

# Results wait in the object store only until the driver fetches them, at most one a running task.
OBJECT_STORE_BYTES = 512 * 2**20
# A worker that dies (out of memory, a lost node) gives its task to another this many times.
TASK_RETRIES = 3


@dataclass(frozen=True, slots=True)
class RayRunner:
    """Runs tasks on Ray.

    Attributes:
        address: `local`, `auto`, or the address of a cluster.
        workers: Most tasks at once; None for one a CPU of the cluster.
        memory_budget: Most bytes one worker may take.
    """

    address: str
    workers: int | None
    memory_budget: int

    @property
    def name(self) -> str:
        """`ray`."""
        return "ray"

    def run(self, tasks: Iterable[GroupTask]) -> Iterator[GroupResult]:
        """Yields each task's result as it is done.

        At most one task a worker is in flight, each counted at its planned memory, so neither the
        queue nor finished results grow with the job. A Ray that was running before is left running.
        """
        mine = not ray.is_initialized()
        if mine:
            self._connect()
        try:
            yield from self._in_flight(iter(tasks))
        finally:
            if mine:
                ray.shutdown()

    def _connect(self) -> None:
        quiet = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
        try:
            if self.address == "local":
                ray.init(
                    address="local",
                    num_cpus=self.workers,
                    include_dashboard=False,
                    object_store_memory=OBJECT_STORE_BYTES,
                    **quiet,
                )
            else:
                ray.init(address=self.address, **quiet)
        except (ConnectionError, ValueError, RuntimeError, RayError) as error:
            raise BadInput(
                f"--address {self.address}",
                f"no Ray could be reached or started: {_first_line(error)}",
                "Use --address local, or start a cluster with `ray start --head`.",
            ) from error

    def _in_flight(self, tasks: Iterator[GroupTask]) -> Iterator[GroupResult]:
        slots = self.workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        remote = ray.remote(solve_group)
        running: dict[ray.ObjectRef[GroupResult], GroupTask] = {}
        try:
            while True:
                for task in _take(tasks, slots - len(running)):
                    options = remote.options(
                        num_cpus=1,
                        memory=task.group.peak_bytes,
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


def _result(reference: ray.ObjectRef[GroupResult], task: GroupTask) -> GroupResult:
    """The task's result, or the error it raised as it was raised."""
    try:
        result: GroupResult = ray.get(reference)
        return result
    except RayTaskError as error:
        cause = error.cause if isinstance(error.cause, LegoRayError) else None
        if cause is not None:
            raise cause from None
        raise RunFailed(
            f"task {task.group.name}",
            f"{type(error.cause).__name__}: {_first_line(error.cause)}",
        ) from error
    except RayError as error:
        raise RunFailed(
            f"task {task.group.name}",
            f"its worker was lost {TASK_RETRIES + 1} times: {_first_line(error)}",
            "If it ran out of memory, lower --memory-budget or --workers.",
        ) from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
