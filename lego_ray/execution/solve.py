"""One task, from byte ranges to merged factor pairs: a plain function that every runner calls."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from lego_ray.errors import LegoRayError, SitesFailed
from lego_ray.execution.extract import extract
from lego_ray.execution.task import GroupResult, GroupTask, SiteResult
from lego_ray.methods.base import MergeMethod, SiteSolution
from lego_ray.numerics.msu import split_rows
from lego_ray.numerics.pool import Pool, pool_of
from lego_ray.planning.plan import SitePlan


def solve_group(task: GroupTask) -> GroupResult:
    """Extracts and solves a task's sites, on one thread.

    Raises:
        SitesFailed: If a site cannot be solved; names it.
        StorageError: If a source cannot be read.
    """
    started = time.perf_counter()
    with one_thread():
        extraction = extract(task)
        sites = []
        if not extraction.quarantined:
            method = task.recipe.merge_method()
            for plan in task.group.sites:
                pool = pool_of(extraction.rows.pop(plan.site), plan.d_in)
                sites.append(_solve_site(plan, pool, method, task.recipe.rank))
    return GroupResult(
        index=task.index,
        sites=tuple(sites),
        quarantined=extraction.quarantined,
        tensor_hashes=extraction.tensor_hashes,
        full_weights=extraction.full_weights,
        bytes_read=extraction.bytes_read,
        requests=extraction.requests,
        seconds=time.perf_counter() - started,
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """Runs torch on one thread: another number may add in another order and give other bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _solve_site(plan: SitePlan, pool: Pool, method: MergeMethod, rank: int) -> SiteResult:
    try:
        solution = method.solve(pool, rank, torch.Generator().manual_seed(plan.seed))
    except LegoRayError:
        raise
    except (RuntimeError, ValueError, MemoryError) as error:
        raise SitesFailed(
            plan.site,
            f"could not be solved: {type(error).__name__}: {error}",
            "This is a fault of lego-ray; please report it with the plan's digest.",
        ) from error
    return _site_result(plan, pool, solution)


def _site_result(plan: SitePlan, pool: Pool, solution: SiteSolution) -> SiteResult:
    a, b = split_rows(solution.rows, pool.d_in)
    # Readers of the catalog look for an adapter's ranks together.
    order = np.lexsort((pool.ranks.numpy(), pool.adapters.numpy()))
    return SiteResult(
        plan=plan,
        a=a.numpy(),
        b=b.numpy(),
        adapters=pool.adapters.numpy()[order].astype(np.int32),
        ranks=pool.ranks.numpy()[order].astype(np.int32),
        clusters=solution.labels.numpy()[order].astype(np.int32),
        distances=solution.distances.numpy()[order],
        weights=solution.weights.numpy()[order],
        inertia=solution.inertia,
        iterations=solution.iterations,
        relative_error=solution.comparison.relative_error(),
        norm_ratio=solution.comparison.norm_ratio,
    )
