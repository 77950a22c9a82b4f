"""Cuts several merges over one zoo into tasks that read each adapter's bytes once for all. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from lego_ray.planning.cutting import TASK_SECONDS, Tally, layer_of, layers_of, parts_of_others
from lego_ray.planning.plan import WORKER_BYTES, Plan, SitePlan, TaskPlan
from lego_ray.planning.planner import tally_sites


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
        """Every adapter's tensors as they are stored, and what reading them takes besides."""
        return sum(self.tally.read_bytes) + self.tally.buffer_bytes

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
        for number in sorted({number for site in batch for number in site.plans}):
            mine = tuple(site.plans[number] for site in batch if number in site.plans)
            read = sum(reads[number][site.site] for site in mine)
            parts.append((number, len(tasks[number])))
            tasks[number].append(TaskPlan(layers_of(mine), mine, read, _peak(batch)))
        name = tasks[parts[0][0]][-1].name
        joint.append(JointPlan(name, tuple(parts), _peak(batch)))
    together = {site.name for site in sites if _fits([site], memory_budget)}
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


def _batches(sites: Iterable[_Site], memory_budget: int) -> Iterator[list[_Site]]:
    """Sites that fit together and are worth a task; those that do not even fit alone are left out."""
    batch: list[_Site] = []
    for site in sites:
        if not _fits([site], memory_budget):
            continue
        new_layer = bool(batch) and layer_of(batch[-1].name) != layer_of(site.name)
        worth = sum(each.seconds for each in batch) >= TASK_SECONDS
        if batch and (not _fits([*batch, site], memory_budget) or (new_layer and worth)):
            yield batch
            batch = []
        batch.append(site)
    if batch:
        yield batch


def _fits(batch: Sequence[_Site], memory_budget: int) -> bool:
    spread = any(plan.route == "spread" for site in batch for plan in site.plans.values())
    return not spread and _peak(batch) <= memory_budget


def _peak(batch: Sequence[_Site]) -> int:
    """All tensors are held; one merge at a time has its pools, and one of its sites is solved."""
    pools, workspace = dict.fromkeys((n for site in batch for n in site.plans), 0), 0
    for site in batch:
        for number, plan in site.plans.items():
            pools[number] += plan.pool_bytes
            workspace = max(workspace, plan.peak_bytes - WORKER_BYTES - plan.pool_bytes)
    held = sum(site.held for site in batch)
    held += parts_of_others((site.tally for site in batch), lambda tally: sum(tally.read_bytes))
    return WORKER_BYTES + held + max(pools.values()) + workspace


def _read_bytes(plan: Plan) -> dict[str, int]:
    """Tensor bytes that a merge reads at each site."""
    return {t.example.site: sum(t.read_bytes) for t in tally_sites(plan.adapters)}
