"""Cuts a merge into tasks that fit a worker, and a site that fits none into shards. Pure.

A site's pool is all MSUs of all adapters there, so it grows with the zoo while a worker does not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from lego_ray.errors import InvalidOption
from lego_ray.formats.site_factors import SiteFactors
from lego_ray.methods.base import PoolCosts
from lego_ray.planning.recipe import Recipe, site_seed
from lego_ray.planning.task_plans import (
    READ_AHEAD,
    WORKER_BYTES,
    ShardPlan,
    SitePlan,
    TaskPlan,
)

# A Ray task costs about a millisecond to start and a result to fetch; layers are joined until one is
# worth this many seconds.
TASK_SECONDS = 1.0
# Adapters whose reads are under way at once, at most, of a store that is far: at 50 ms a request, 64
# are 1,280 adapters a second.
MOST_AHEAD = 64
# Part of a worker's memory, beside the process, that more of them than the fewest may take.
_AHEAD_PART = 8


@dataclass(slots=True)
class Tally:
    """What the adapters have at one site, in plan order.

    Attributes:
        example: One of the factor pairs.
        ranks: Rank of each.
        read_bytes: Tensor bytes of each; of tensors that experts share, this expert's part.
        widened_bytes: Most memory that decoding one of them takes.
        base_bytes: Size of the base model's weight, if one of them is computed with it: it is read once
            for all, and held as long as the task runs.
        is_far: Whether one of them is not on disk.
    """

    example: SiteFactors
    ranks: list[int] = field(default_factory=list)
    read_bytes: list[int] = field(default_factory=list)
    widened_bytes: int = 0
    base_bytes: int = 0
    is_far: bool = False

    @property
    def buffer_bytes(self) -> int:
        """Most memory its reads take: what is fetched ahead, and one pair as it is decoded."""
        widened = 8 * max(self.ranks) * (self.example.d_in + self.example.d_out)
        return self.ahead_bytes + max(widened, self.widened_bytes) + self.base_bytes

    @property
    def ahead_bytes(self) -> int:
        """Most memory that what is fetched ahead of it takes."""
        return (READ_AHEAD + 1) * max(self.read_bytes)

    @property
    def is_alone(self) -> bool:
        """Whether it is a task by itself: what is computed with a base model's weight takes long."""
        return self.base_bytes > 0

    @property
    def shared(self) -> str:
        """The parameter whose tensors it shares with other experts."""
        return self.example.site.rpartition(".")[0]

    @property
    def shared_by(self) -> int:
        """How many sites share its tensors: the experts of one parameter; else 1."""
        return self.example.packed.experts if self.example.packed else 1

    @property
    def others_bytes(self) -> int:
        """Memory of the parts of its tensors that are other sites': tensors are read whole."""
        return self.ahead_bytes * (self.shared_by - 1)


def cut_into_tasks(
    tallies: Sequence[Tally], recipe: Recipe, memory_budget: int, work: PoolCosts | None = None
) -> Iterator[TaskPlan]:
    """Cuts sites, in layer order, into tasks that fit the budget and are worth starting.

    Args:
        tallies: The sites, in layer order.
        recipe: What to make.
        memory_budget: Most bytes one worker may take.
        work: What is done with a site's pool; None for the recipe's.

    Raises:
        InvalidOption: If a site fits no worker, and its parts do not either.
    """
    work = work or recipe.work()
    batch = _Batch(memory_budget)
    for tally in tallies:
        site = _site_plan(tally, recipe, work, memory_budget)
        if site.peak_bytes > memory_budget:
            if batch.sites:
                yield batch.task()
                batch = _Batch(memory_budget)
            yield _spread(tally, site, work, memory_budget)
            continue
        before = batch.sites[-1] if batch.sites else None
        new_layer = before is not None and layer_of(before.site) != layer_of(site.site)
        worth = batch.seconds >= TASK_SECONDS
        too_much = batch.sites and batch.peak_with(tally, site) > memory_budget
        if too_much or (new_layer and worth) or (batch.sites and tally.is_alone):
            yield batch.task()
            batch = _Batch(memory_budget)
        batch.add(tally, site)
        if tally.is_alone:
            yield batch.task()
            batch = _Batch(memory_budget)
    if batch.sites:
        yield batch.task()


def layer_of(site: str) -> str:
    """The path up to and including its first number: `model.layers.0`; empty without one.

    Underscores are dots in a name without any, as kohya's are: `lora_unet_down_blocks_0`.
    """
    dot = r"\." if "." in site else "_"
    match = re.match(rf"(?:.*?{dot})?\d+(?={dot}|$)", site)
    return match.group(0) if match else ""


def _site_plan(tally: Tally, recipe: Recipe, work: PoolCosts, memory_budget: int) -> SitePlan:
    """The site by its fastest route that fits, or by the one that takes least if none does."""
    factors = tally.example
    n, d_in, d_out = sum(tally.ranks), factors.d_in, factors.d_out
    besides = WORKER_BYTES + tally.buffer_bytes + tally.others_bytes + 4 * n * (d_in + d_out)
    rank = recipe.rank_of(factors.site)
    routes = work.routes(n, d_in, d_out, rank)
    fitting = [r for r in routes if besides + r.costs.workspace_bytes <= memory_budget]
    route = fitting[0] if fitting else min(routes, key=lambda r: r.costs.workspace_bytes)
    return SitePlan(
        site=factors.site,
        kind=factors.kind,
        d_in=d_in,
        d_out=d_out,
        a_tail=factors.a_tail,
        b_dims=factors.b_dims,
        n_msus=n,
        n_adapters=len(tally.ranks),
        rank=rank,
        seed=site_seed(recipe.seed, factors.site),
        route=route.name,
        peak_bytes=besides + route.costs.workspace_bytes,
        seconds=route.costs.seconds,
    )


def layers_of(sites: Sequence[SitePlan]) -> str:
    """The layers of some sites, in words."""
    layers = list(dict.fromkeys(layer_of(s.site) or "(no layer)" for s in sites))
    return layers[0] if len(layers) == 1 else f"{layers[0]} to {layers[-1]}"


@dataclass(slots=True)
class SharedParts:
    """Memory of tensors that experts share, which are read whole, beyond the parts of a task's sites.

    Attributes:
        bytes: That of the sites added so far.
    """

    bytes: int = 0
    _left: dict[str, int] = field(default_factory=dict)

    def change(self, tally: Tally, part: int) -> int:
        """How one more site changes it.

        Args:
            tally: The site.
            part: Bytes that are held of the site's own part.
        """
        if tally.shared_by == 1:
            return 0
        left = self._left.get(tally.shared)
        if left is None:
            return part * (tally.shared_by - 1)
        return max(0, left - part) - left

    def add(self, tally: Tally, part: int) -> None:
        """Takes one more site in.

        Args:
            tally: The site.
            part: Bytes that are held of the site's own part.
        """
        change = self.change(tally, part)
        self.bytes += change
        if tally.shared_by > 1:
            self._left[tally.shared] = self._left.get(tally.shared, 0) + change


@dataclass(slots=True)
class _Batch:
    """Sites of a task to be, and what they take: all pools and reads at once, one workspace."""

    budget: int
    sites: list[SitePlan] = field(default_factory=list)
    seconds: float = 0.0
    _read_bytes: int = 0
    _held: int = 0
    _workspace: int = 0
    _is_far: bool = False
    _slice: int = 0
    _shared: SharedParts = field(default_factory=SharedParts)

    def peak_with(self, tally: Tally, site: SitePlan) -> int:
        """Memory of a worker that has one more site."""
        held = self._held + site.pool_bytes + tally.buffer_bytes
        shared = self._shared.bytes + self._shared.change(tally, tally.ahead_bytes)
        return WORKER_BYTES + held + max(self._workspace, _workspace(tally, site)) + shared

    def add(self, tally: Tally, site: SitePlan) -> None:
        """Takes one more site in."""
        self.sites.append(site)
        self.seconds += site.seconds
        self._read_bytes += sum(tally.read_bytes) + tally.base_bytes
        self._held += site.pool_bytes + tally.buffer_bytes
        self._workspace = max(self._workspace, _workspace(tally, site))
        self._is_far = self._is_far or tally.is_far
        self._slice += max(tally.read_bytes) * tally.shared_by
        self._shared.add(tally, tally.ahead_bytes)

    def task(self) -> TaskPlan:
        """The task of these sites; of a store that is far, with as many reads at once as fit."""
        peak = WORKER_BYTES + self._held + self._workspace + self._shared.bytes
        room = min(self.budget - peak, (self.budget - WORKER_BYTES) // _AHEAD_PART)
        more = min(MOST_AHEAD - READ_AHEAD, max(0, room) // max(1, self._slice))
        more = more if self._is_far else 0
        return TaskPlan(
            name=layers_of(self.sites),
            sites=tuple(self.sites),
            read_bytes=self._read_bytes,
            peak_bytes=peak + more * self._slice,
            ahead=READ_AHEAD + more,
        )


def _workspace(tally: Tally, site: SitePlan) -> int:
    besides = tally.buffer_bytes + tally.others_bytes + WORKER_BYTES
    return site.peak_bytes - site.pool_bytes - besides


def _spread(tally: Tally, site: SitePlan, work: PoolCosts, memory_budget: int) -> TaskPlan:
    """The site in as few shards as fit the budget, cut between adapters and about equal."""
    costs = work.spread(site.n_msus, site.d_in, site.d_out, site.rank)
    if costs is None:
        raise InvalidOption(
            "--memory-budget",
            f"site {site.site} pools {site.n_msus} MSUs and needs {_mib(site.peak_bytes)} in one "
            f"worker, the budget is {memory_budget >> 20} MiB, and with these options of the "
            f"{work.name} method a pool cannot be spread over workers",
            f"Raise the budget to {_mib(site.peak_bytes)}, merge fewer adapters at once, or choose "
            "another method"
            + (" or leave out --distance rank-one." if work.name == "lego" else "."),
        )
    fixed = WORKER_BYTES + tally.buffer_bytes + tally.others_bytes + costs.fixed_bytes
    most = (memory_budget - fixed) // costs.row_bytes
    if most < max(tally.ranks):
        least = _mib(fixed + max(tally.ranks) * costs.row_bytes)
        raise InvalidOption(
            "--memory-budget",
            f"site {site.site} needs at least {least} in each worker even in parts, the budget is "
            f"{memory_budget >> 20} MiB",
            f"Raise the budget to {least}.",
        )
    shards = []
    for block in _blocks(tally.ranks, most):
        rows = sum(tally.ranks[block])
        shards.append(
            ShardPlan(
                n_adapters=block.stop - block.start,
                n_msus=rows,
                read_bytes=sum(tally.read_bytes[block]) + tally.base_bytes,
                peak_bytes=fixed + rows * costs.row_bytes,
            )
        )
    peak = max(shard.peak_bytes for shard in shards)
    return TaskPlan(
        name=site.site,
        sites=(replace(site, route="spread", peak_bytes=peak),),
        read_bytes=sum(tally.read_bytes) + len(shards) * tally.base_bytes,
        peak_bytes=peak,
        shards=tuple(shards),
        owner_bytes=WORKER_BYTES + costs.owner_bytes,
    )


def _blocks(ranks: Sequence[int], most: int) -> list[slice]:
    """Cuts adapters into the fewest blocks of at most `most` rows, then evens them out."""
    fewest = len(_fill(ranks, most))
    low, high = max(max(ranks), -(-sum(ranks) // fewest)), most
    while low < high:  # the smallest bound that makes no more blocks
        middle = (low + high) // 2
        if len(_fill(ranks, middle)) > fewest:
            low = middle + 1
        else:
            high = middle
    return _fill(ranks, high)


def _fill(ranks: Sequence[int], most: int) -> list[slice]:
    blocks, start, rows = [], 0, 0
    for at, rank in enumerate(ranks):
        if rows + rank > most:
            blocks.append(slice(start, at))
            start, rows = at, 0
        rows += rank
    return [*blocks, slice(start, len(ranks))]


def _mib(size: int) -> str:
    """A needed amount of memory, rounded up, so that a budget of that size is enough."""
    return f"{-(-size >> 20)} MiB"
