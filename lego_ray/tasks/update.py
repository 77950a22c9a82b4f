"""One task of an update: the changed adapters' MSUs at some sites, and the sites' running sums."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lego_ray.errors import LegoRayError, VerificationFailed
from lego_ray.lazy import np, torch
from lego_ray.methods.lego import Lego
from lego_ray.methods.scaling import SOURCE_NORM, parts, scaled_rows_of
from lego_ray.methods.sources_of_site import source_squares
from lego_ray.methods.spectrum import rows_to_power
from lego_ray.methods.updatable import derived
from lego_ray.numerics.kmeans.running_sums import Members, Moved, RunningSite, moved, placed
from lego_ray.numerics.msu import split_rows
from lego_ray.numerics.pool import Pool
from lego_ray.planning.recipe import Recipe
from lego_ray.planning.task_plans import SitePlan, TaskPlan
from lego_ray.tasks.passes import Merging
from lego_ray.tasks.read import extract
from lego_ray.tasks.solve import named, one_thread
from lego_ray.tasks.values import Loss, SiteResult, SolveTask, SourceSlice, task_title


@dataclass(frozen=True, slots=True)
class Change:
    """An adapter that comes or goes; a source of the task has its place in the list as its number.

    Attributes:
        sign: 1 if it comes, -1 if it goes.
        fit: Its number in the fit, or None.
        before: Its number among the adapters added before, or None.
        after: Its number among the added ones from now on, or None.
    """

    sign: int
    fit: int | None = None
    before: int | None = None
    after: int | None = None


@dataclass(frozen=True, slots=True)
class UpdateTask:
    """Some sites to bring up to date.

    Attributes:
        index: Its number.
        recipe: The merge's method and options.
        plan: The sites, as they are to be; n_msus is 0 at one that no adapter has any more.
        running: Their sums before.
        sources: What to read of the adapters that change.
        changes: What becomes of each of them.
        kept: For each adapter added before its number from now on, -1 if it goes.
        present: Whether each adapter of the fit is in from now on.
        memory_budget: Most bytes its worker may take.
        of: How many tasks the update has.
    """

    index: int
    recipe: Recipe
    plan: TaskPlan
    running: tuple[RunningSite, ...]
    sources: tuple[SourceSlice, ...]
    changes: tuple[Change, ...]
    kept: tuple[int, ...]
    present: tuple[bool, ...]
    memory_budget: int
    of: int = 0

    @property
    def title(self) -> str:
        """What people see of it; see `task_title`."""
        return task_title(self.recipe.name or "", self.plan.name, self.index, self.of)


@dataclass(frozen=True, slots=True)
class UpdateResult:
    """What a task returns.

    Attributes:
        index: The task's number.
        sites: Its sites that have adapters, derived again; their adapters are numbered as in
            `State.everyone`. Empty, as is the next, if an adapter was quarantined.
        running: The sums of all its sites.
        quarantined: What is wrong with the weights of which source.
        tensor_hashes: For each source, name and hex sha256 of each tensor read.
        bytes_read: Bytes fetched.
        requests: Read requests made.
        seconds: Wall time in the worker.
        worker: As in `TaskResult`.
        retries: As in `TaskResult`.
        losses: As in `TaskResult`.
    """

    index: int
    sites: tuple[SiteResult, ...]
    running: tuple[RunningSite, ...]
    quarantined: Mapping[int, LegoRayError]
    tensor_hashes: Mapping[int, tuple[tuple[str, str], ...]]
    bytes_read: int
    requests: int
    seconds: float
    worker: str = ""
    retries: int = 0
    losses: tuple[Loss, ...] = ()


def update_sites(task: UpdateTask) -> UpdateResult:
    """Reads what changes at a task's sites and derives them again, on one thread.

    Raises:
        UpdateImpossible: If a value is too large for the sums.
        VerificationFailed: If an adapter that goes has other ranks than the one that came.
        StorageError: If a source cannot be read.
    """
    started = time.perf_counter()
    method = task.recipe.merge_method()
    assert isinstance(method, Lego)  # as `check_updatable` has it
    touched = {f.site for source in task.sources for f in source.factors}
    sites = tuple(site for site in task.plan.sites if site.site in touched)
    reading = SolveTask(
        task.index,
        "",
        replace(task.plan, sites=sites),
        task.sources,
        task.memory_budget,
        Merging(task.recipe),
    )
    found: list[SiteResult] = []
    running: list[RunningSite] = []
    with one_thread():
        extraction = extract(reading, method.prepare)
        for plan, site in zip(task.plan.sites, task.running, strict=True):
            if extraction.quarantined:
                break
            with named(plan):
                now = _moved(task, method, site, extraction.pools.pop(plan.site, None))
                running.append(now)
                if plan.n_msus:
                    found.append(_derived(task, method, plan, now))
    return UpdateResult(
        index=task.index,
        sites=tuple(found),
        running=tuple(running),
        quarantined=extraction.quarantined,
        tensor_hashes=extraction.tensor_hashes,
        bytes_read=extraction.bytes_read,
        requests=extraction.requests,
        seconds=time.perf_counter() - started,
        losses=tuple(extraction.losses),
    )


def _moved(task: UpdateTask, method: Lego, site: RunningSite, pool: Pool | None) -> RunningSite:
    """A site's sums after the changes."""
    numbers = torch.tensor([*task.kept, -1])  # never empty
    stays = numbers[site.added.adapters] >= 0
    stayed = site.added.select(stays)
    added = [replace(stayed, adapters=numbers[stayed.adapters])]
    rows: list[Moved] = []
    measured = parts(task.recipe.output_scale)[0] == SOURCE_NORM
    squares = source_squares(pool) if pool is not None and measured else {}
    for number, change in enumerate(task.changes):
        mine = pool.rows[pool.adapters == number] if pool is not None else torch.empty(0, 0)
        if not len(mine):
            continue
        if change.fit is not None:
            members = site.fit.members.select(site.fit.members.adapters == change.fit)
        elif change.before is not None:
            members = site.added.select(site.added.adapters == change.before)
        else:
            members = placed(
                site.fit,
                change.after or 0,
                mine,
                method.parameter_reweight,
                squares.get(number, 0.0),
            )
            added.append(members)
        if members.n != len(mine):
            raise VerificationFailed(
                task.sources[number].uri,
                f"it has {len(mine)} ranks at a site where the merge took {members.n}",
                "The adapter was changed since; merge again with --refit.",
            )
        rows.append(Moved(mine, members.clusters, change.sign))
    present = torch.tensor(task.present, dtype=torch.bool)
    return moved(site, present, _in_order(added), rows)


def _in_order(parts: Sequence[Members]) -> Members:
    joined = parts[0]
    for part in parts[1:]:
        joined = joined.joined(part)
    order = np.lexsort((joined.ranks.numpy(), joined.adapters.numpy()))
    return joined.select(torch.from_numpy(order))


def _derived(task: UpdateTask, method: Lego, plan: SitePlan, site: RunningSite) -> SiteResult:
    """A site as it is published; what it would take all adapters to know is not a number."""
    present = torch.tensor(task.present, dtype=torch.bool)
    rows, clusters = derived(method, site, present, plan.d_in)
    squares = clusters.source_squares()
    rows = rows_to_power(rows, plan.d_in, float(task.recipe.spectrum))
    rows = scaled_rows_of(rows, squares, plan.d_in, task.recipe.output_scale, plan.scale)
    a, b = split_rows(rows, plan.d_in)
    members = clusters.members
    return SiteResult(
        plan=plan,
        a=a.numpy(),
        b=b.numpy(),
        adapters=members.adapters.numpy().astype(np.int32),
        ranks=members.ranks.numpy().astype(np.int32),
        clusters=members.clusters.numpy().astype(np.int32),
        distances=members.distances.numpy(),
        weights=(1.0 / clusters.counts.double())[members.clusters].numpy(),
        inertia=clusters.inertia,
        iterations=None,
        relative_error=float("nan"),
        norm_ratio=float("nan"),
    )
