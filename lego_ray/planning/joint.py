"""Cuts several merges over one zoo into tasks that read each adapter's bytes once for all. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from lego_ray.planning.cutting import TASK_SECONDS, SharedParts, Tally, layer_of, layers_of
from lego_ray.planning.plan import Plan
from lego_ray.planning.planner import tally_sites
from lego_ray.planning.task_plans import WORKER_BYTES, SitePlan, TaskPlan


@dataclass(frozen=True, slots=True)
class JointPlan:
    """A task of several merges.

    Attributes:
        name: The layers in it, in words.
        parts: For each merge that has some of its sites: the merge's number, and its task's.
        peak_bytes: Most memory one worker takes for it: every tensor once, and one merge's pools.
    """

    name: str
    parts: tuple[tuple[int, int], ...]
    peak_bytes: int


@dataclass(slots=True)
class _Site:
    """One site in every merge that has it, in the order of the merges."""

    tally: Tally
    plans: dict[int, SitePlan]

    @property
    def name(self) -> str:
        return self.tally.example.site

    @property
    def held(self) -> int:
        """Every adapter's tensors as they are stored, and what else reading them takes."""
        return self.read_bytes + self.tally.buffer_bytes

    @property
    def read_bytes(self) -> int:
        """Every adapter's tensors, of shared ones its own part."""
        return sum(self.tally.read_bytes)

    @property
    def workspace(self) -> int:
        """Most memory that a merge needs to be solved, apart from its pools."""
        return max(plan.peak_bytes - WORKER_BYTES - plan.pool_bytes for plan in self.plans.values())

    @property
    def seconds(self) -> float:
        return sum(site.seconds for site in self.plans.values())


def cut_jointly(
    plans: Sequence[Plan], memory_budget: int
) -> tuple[tuple[Plan, ...], tuple[JointPlan, ...]]:
    """Cuts merges alike, so that one read of a task's sites serves all of them.

    A site that does not fit a worker so, or is spread over workers in some merge, is left to each
    merge's own task, which reads its bytes again.

    Args:
        plans: Plans of merges that share adapters.
        memory_budget: Most bytes one worker may take.

    Returns:
        The same merges cut into other tasks; and the joint tasks, each of one task of some of them.
        Tasks that are in none are left to their merge.
    """
    sites = _sites(plans)
    tasks: list[list[TaskPlan]] = [[] for _ in plans]
    joint: list[JointPlan] = []
    reads = [_read_bytes(plan) for plan in plans]
    for batch in _batches(sites, memory_budget):
        parts = []
        for number in sorted({number for site in batch.sites for number in site.plans}):
            mine = tuple(site.plans[number] for site in batch.sites if number in site.plans)
            read = sum(reads[number][site.site] for site in mine)
            parts.append((number, len(tasks[number])))
            tasks[number].append(TaskPlan(layers_of(mine), mine, read, batch.peak_bytes))
        name = tasks[parts[0][0]][-1].name
        joint.append(JointPlan(name, tuple(parts), batch.peak_bytes))
    together = {site.name for site in sites if _fits_alone(site, memory_budget)}
    for number, plan in enumerate(plans):
        for task in plan.tasks:
            alone = tuple(s for s in task.sites if s.site not in together)
            if alone:
                tasks[number].append(replace(task, sites=alone))
    cut = tuple(replace(plan, tasks=tuple(mine)) for plan, mine in zip(plans, tasks, strict=True))
    return cut, tuple(joint)


def _sites(plans: Sequence[Plan]) -> list[_Site]:
    """Every site of any merge, in layer order, with the tallies of all their adapters."""
    adapters = {adapter.uri: adapter for plan in plans for adapter in plan.adapters}
    by_name: dict[str, dict[int, SitePlan]] = {}
    for number, plan in enumerate(plans):
        for task in plan.tasks:
            for site in task.sites:
                by_name.setdefault(site.site, {})[number] = site
    tallies = tally_sites(adapters.values())
    return [_Site(tally, by_name[tally.example.site]) for tally in tallies]


def _batches(sites: Iterable[_Site], memory_budget: int) -> Iterator[_Batch]:
    """Sites that fit together and are worth a task; those that do not even fit alone are left out."""
    batch = _Batch()
    for site in sites:
        if not _fits_alone(site, memory_budget):
            continue
        new_layer = bool(batch.sites) and layer_of(batch.sites[-1].name) != layer_of(site.name)
        worth = batch.seconds >= TASK_SECONDS
        too_much = batch.sites and batch.peak_with(site) > memory_budget
        if too_much or (new_layer and worth) or (batch.sites and site.tally.is_alone):
            yield batch
            batch = _Batch()
        batch.add(site)
        if site.tally.is_alone:
            yield batch
            batch = _Batch()
    if batch.sites:
        yield batch


def _fits_alone(site: _Site, memory_budget: int) -> bool:
    spread = any(plan.route == "spread" for plan in site.plans.values())
    return not spread and _Batch().peak_with(site) <= memory_budget


@dataclass(slots=True)
class _Batch:
    """Sites of a task to be. All tensors are held; one merge at a time has its pools and a workspace."""

    sites: list[_Site] = field(default_factory=list)
    seconds: float = 0.0
    _held: int = 0
    _pools: dict[int, int] = field(default_factory=dict)
    _workspace: int = 0
    _shared: SharedParts = field(default_factory=SharedParts)

    @property
    def peak_bytes(self) -> int:
        """Memory of its worker."""
        pools = max(self._pools.values(), default=0)
        return WORKER_BYTES + self._held + pools + self._workspace + self._shared.bytes

    def peak_with(self, site: _Site) -> int:
        """Memory of its worker with one more site."""
        pools = dict(self._pools)
        for number, plan in site.plans.items():
            pools[number] = pools.get(number, 0) + plan.pool_bytes
        workspace = max(self._workspace, site.workspace)
        shared = self._shared.bytes + self._shared.change(site.tally, site.read_bytes)
        held = self._held + site.held
        return WORKER_BYTES + held + max(pools.values(), default=0) + workspace + shared

    def add(self, site: _Site) -> None:
        """Takes one more site in."""
        self.sites.append(site)
        self.seconds += site.seconds
        self._held += site.held
        for number, plan in site.plans.items():
            self._pools[number] = self._pools.get(number, 0) + plan.pool_bytes
        self._workspace = max(self._workspace, site.workspace)
        self._shared.add(site.tally, site.read_bytes)


def _read_bytes(plan: Plan) -> dict[str, int]:
    """Tensor bytes that a merge reads at each site."""
    return {t.example.site: sum(t.read_bytes) + t.base_bytes for t in tally_sites(plan.adapters)}
