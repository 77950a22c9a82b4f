"""`(recipe, inventory) -> Plan`, a pure function: no files, no cluster, no clock."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from lego_ray.errors import InvalidOption, SiteShapeMismatch
from lego_ray.formats.record import AdapterRecord, SiteFactors
from lego_ray.methods.base import MergeMethod
from lego_ray.planning.inventory import (
    Inventory,
    agreed_base_model,
    check_shapes,
    keep_full_weights_of,
    require_adapters,
)
from lego_ray.planning.plan import PLAN_VERSION, GroupPlan, Plan, SitePlan
from lego_ray.planning.recipe import Recipe, digest_of, site_seed

DEFAULT_MEMORY_BUDGET = 4 * 2**30
# Float64 multiply-adds a second of one ordinary core, for estimates that only balance tasks.
FLOPS = 2e10
# A Ray task costs about a millisecond to start and a result to fetch; layers are joined until one is
# worth this many seconds.
TASK_SECONDS = 1.0


def make_plan(
    recipe: Recipe,
    inventory: Inventory,
    *,
    sources: Sequence[str] = (),
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
) -> Plan:
    """Plans a merge.

    Args:
        recipe: What to make.
        inventory: What a scan found.
        sources: The user's words for where that was, for error messages.
        memory_budget: Most bytes one worker may take.

    Raises:
        NoAdaptersFound: If no adapter is left to merge.
        BaseModelMismatch: If the adapters name different base models.
        SiteShapeMismatch: If adapters disagree on a site's shape.
        InvalidOption: If a single site's pool does not fit the memory budget.
    """
    require_adapters(inventory, sources)
    inventory = keep_full_weights_of(inventory, recipe.full_weights)
    adapters = inventory.adapters
    base_model = agreed_base_model(adapters, recipe.base_model)
    check_shapes(adapters)
    _check_layout(adapters)
    tallies = _tally(adapters)
    method = recipe.merge_method()
    sites = [_site_plan(tally, recipe, method) for tally in tallies.values()]
    read_bytes = {site: tally.read_bytes for site, tally in tallies.items()}
    return Plan(
        recipe=recipe,
        base_model=base_model,
        dtype=_majority_dtype(adapters) if recipe.dtype == "majority" else recipe.dtype,
        adapters=adapters,
        refused=inventory.refused,
        groups=tuple(_groups(sites, read_bytes, memory_budget)),
        warnings=tuple(_warnings(adapters)),
        digest=_digest(recipe, adapters),
    )


@dataclass(slots=True)
class _Tally:
    """What the adapters have at one site."""

    example: SiteFactors
    ranks: list[int] = field(default_factory=list)
    read_bytes: int = 0


def _tally(adapters: Iterable[AdapterRecord]) -> dict[str, _Tally]:
    tallies: dict[str, _Tally] = {}
    for adapter in adapters:
        for factors in adapter.sites:
            tally = tallies.setdefault(factors.site, _Tally(factors))
            tally.ranks.append(factors.rank)
            tally.read_bytes += sum(span.end - span.start for span in (factors.a, factors.b))
    return dict(sorted(tallies.items(), key=lambda item: _natural(item[0])))


def _site_plan(tally: _Tally, recipe: Recipe, method: MergeMethod) -> SitePlan:
    factors = tally.example
    n, d = sum(tally.ranks), factors.d_in + factors.d_out
    pool = 4 * n * d
    # While a pool is put in order its rows exist three times: as read, joined, and ordered.
    peak = pool + max(2 * pool, method.workspace_bytes(n, d, recipe.rank))
    return SitePlan(
        site=factors.site,
        kind=factors.kind,
        d_in=factors.d_in,
        d_out=factors.d_out,
        a_tail=factors.a.shape[1:],
        b_dims=len(factors.b.shape),
        n_msus=n,
        n_adapters=len(tally.ranks),
        seed=site_seed(recipe.seed, factors.site),
        peak_bytes=peak,
        seconds=(n * n * d + 100.0 * n * n * recipe.rank) / FLOPS,
    )


def _groups(
    sites: Sequence[SitePlan], read_bytes: dict[str, int], memory_budget: int
) -> Iterable[GroupPlan]:
    """Cuts sites, in layer order, into tasks that fit the budget and are worth starting."""
    batch: list[SitePlan] = []
    for site in sites:
        if site.peak_bytes > memory_budget:
            raise InvalidOption(
                "--memory-budget",
                f"site {site.site} pools {site.n_msus} MSUs and needs "
                f"{site.peak_bytes / 2**30:.2f} GiB in one worker, the budget is "
                f"{memory_budget / 2**30:.2f} GiB",
                "Raise the budget, or merge fewer adapters at once.",
            )
        new_layer = bool(batch) and layer_of(batch[-1].site) != layer_of(site.site)
        worth = sum(s.seconds for s in batch) >= TASK_SECONDS
        if batch and (_peak([*batch, site]) > memory_budget or (new_layer and worth)):
            yield _group(batch, read_bytes)
            batch = []
        batch.append(site)
    if batch:
        yield _group(batch, read_bytes)


def _group(sites: Sequence[SitePlan], read_bytes: dict[str, int]) -> GroupPlan:
    layers = list(dict.fromkeys(layer_of(s.site) or "(no layer)" for s in sites))
    name = layers[0] if len(layers) == 1 else f"{layers[0]} to {layers[-1]}"
    return GroupPlan(
        name=name,
        sites=tuple(sites),
        read_bytes=sum(read_bytes[s.site] for s in sites),
        peak_bytes=_peak(sites),
    )


def _peak(sites: Sequence[SitePlan]) -> int:
    """All pools of a task are in memory at once, and one site at a time is solved."""
    pools = sum(s.pool_bytes for s in sites)
    return pools + max(s.peak_bytes - s.pool_bytes for s in sites)


def layer_of(site: str) -> str:
    """The path up to and including its first number: `model.layers.0`; empty without one."""
    match = re.match(r"(?:.*?\.)?\d+(?=\.|$)", site)
    return match.group(0) if match else ""


def _natural(site: str) -> list[tuple[int, str]]:
    """Sort key that puts layer 2 before layer 10."""
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in site.split(".")]


def _majority_dtype(adapters: Iterable[AdapterRecord]) -> str:
    count: Counter[str] = Counter()
    for adapter in adapters:
        for factors in adapter.sites:
            count[factors.a.dtype] += factors.rank * factors.d_in
            count[factors.b.dtype] += factors.rank * factors.d_out
    return max(sorted(count), key=lambda dtype: count[dtype])


def _check_layout(adapters: Sequence[AdapterRecord]) -> None:
    """`fan_in_fan_out` describes the base model's layers, so one base has one value."""
    layouts = {bool(a.config.get("fan_in_fan_out", False)): a.uri for a in adapters}
    if len(layouts) > 1:
        raise SiteShapeMismatch(
            layouts[True],
            f"fan_in_fan_out is true here and false in {layouts[False]}",
            "They were trained on different layer types; leave some out with --exclude.",
        )


def _warnings(adapters: Sequence[AdapterRecord]) -> Iterable[str]:
    by_id: dict[str, list[str]] = {}
    for adapter in adapters:
        by_id.setdefault(adapter.adapter_id, []).append(adapter.uri)
    for uris in by_id.values():
        if len(uris) > 1:
            yield f"{', '.join(uris)} have the same content and are each merged"
    if not any(a.base_model for a in adapters):
        yield "no adapter names its base model; give it with --base-model"


def _digest(recipe: Recipe, adapters: Sequence[AdapterRecord]) -> str:
    return digest_of(
        {
            "plan_version": PLAN_VERSION,
            "recipe": recipe.as_json(),
            "adapters": sorted([a.adapter_id, a.version] for a in adapters),
        }
    )
