"""One read, many merges: a shared task's bytes are fetched once, and each merge pools them its way."""

from __future__ import annotations

import time
from dataclasses import replace

from lego_ray.tasks.base_weights import BaseWeights
from lego_ray.tasks.device import device_of
from lego_ray.tasks.joint import JointResult, JointTask
from lego_ray.tasks.read import pool_read, read_ahead
from lego_ray.tasks.solve import one_thread, solve_extracted, solve_task
from lego_ray.tasks.update import UpdateResult, UpdateTask, update_sites
from lego_ray.tasks.values import SolveTask, TaskResult


def run_task(
    task: SolveTask | JointTask | UpdateTask, gpus: float = 0.0
) -> TaskResult | JointResult | UpdateResult:
    """Does any task there is; those of updates always on the CPU."""
    if isinstance(task, UpdateTask):
        return update_sites(task)
    return solve_joint(task, gpus) if isinstance(task, JointTask) else solve_task(task, gpus)


def kept(
    task: SolveTask | JointTask | UpdateTask, result: TaskResult | JointResult | UpdateResult
) -> TaskResult | JointResult | UpdateResult:
    """A task's result, kept from here if the task says how; see `Keeper`.

    Args:
        task: The task.
        result: What `run_task` gave.
    """
    if isinstance(task, JointTask) and isinstance(result, JointResult):
        parts = zip(task.parts, result.parts, strict=True)
        return replace(result, parts=tuple(_kept(*each) for each in parts))
    if isinstance(task, SolveTask) and isinstance(result, TaskResult):
        return _kept(task, result)
    return result


def _kept(task: SolveTask, result: TaskResult) -> TaskResult:
    return task.keeper.keep(task, result) if task.keeper else result


def solve_joint(task: JointTask, gpus: float = 0.0) -> JointResult:
    """Reads a shared task's sources once and solves, or measures, each of its parts.

    Args:
        task: What to do.
        gpus: Share of a GPU to do the arithmetic on; 0 for the CPU.

    Returns:
        The results its parts would have by themselves.

    Raises:
        SitesFailed: If a site cannot be solved; names it.
        StorageError: If a source cannot be read.
    """
    started = time.perf_counter()
    device = device_of(gpus)
    with one_thread():
        reads = {source.key: read for source, read in read_ahead(task.sources)}
        base = BaseWeights()
        parts = tuple(
            solve_extracted(part, pool_read(part, reads, part.work.work.prepare, base), device)
            for part in task.parts
        )
    return JointResult(
        index=task.index,
        parts=parts,
        bytes_read=base.bytes_read + sum(read.bytes_read for read in reads.values()),
        requests=base.requests + sum(read.requests for read in reads.values()),
        seconds=time.perf_counter() - started,
    )
