"""What a plan gave, and how it is to be written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lego_ray.merging.finish import Merged
from lego_ray.merging.losses import with_losses
from lego_ray.output.adapter_files import carried_of
from lego_ray.output.manifest import sources_of
from lego_ray.output.nothing import zero_warnings
from lego_ray.output.running_sums import first_state
from lego_ray.output.write import is_merge_of, manifest_at
from lego_ray.planning.inventory import Inventory
from lego_ray.planning.plan import Plan
from lego_ray.sources.contents import content_hash
from lego_ray.sources.tensor_hashes import AllHashes
from lego_ray.storage.base import Store
from lego_ray.tasks.passes import in_order
from lego_ray.tasks.values import SiteResult, TaskResult


@dataclass(frozen=True, slots=True)
class Solved:
    """A plan that ran through, and everything it gave.

    Attributes:
        plan: The plan that merged, without adapters that turned out bad.
        sites: Its sites, in its order.
        results: What they came in.
    """

    plan: Plan
    sites: tuple[SiteResult, ...]
    results: tuple[TaskResult, ...]


def solved_of(plan: Plan, results: Sequence[TaskResult]) -> Solved:
    """A plan with all of its results.

    Raises:
        SitesFailed: If a site is missing from them.
    """
    found = {site.plan.site: site for result in results for site in result.sites}
    return Solved(plan, tuple(in_order(plan, found, "solved")), tuple(results))


def contents_of(plan: Plan, results: Sequence[TaskResult]) -> dict[str, str]:
    """Hex sha256 over the tensors that were read of each adapter, by URI.

    Args:
        plan: The plan.
        results: All of its results.
    """
    found = tensors_of(plan, results)
    return {a.uri: content_hash(found[number]) for number, a in enumerate(plan.adapters)}


def tensors_of(plan: Plan, results: Sequence[TaskResult]) -> AllHashes:
    """Name and hex sha256 of the tensors that were read of each adapter, by its number in the plan.

    Args:
        plan: The plan.
        results: All of its results; those of runs that cut their tasks differently may share tensors.
    """
    return AllHashes(len(plan.adapters), (result.tensor_hashes for result in results))


def merged_of(solved: Solved, requested: str, store: Store, more: Mapping[str, Any]) -> Merged:
    """What a plan gave, as it is to be written.

    Args:
        solved: What it gave.
        requested: Digest of the plan as it was asked for.
        store: The output.
        more: What else its manifest says; see `manifest_of`.
    """
    contents = contents_of(solved.plan, solved.results)
    adapters = tuple(replace(a, content=contents[a.uri]) for a in solved.plan.adapters)
    adapters = with_losses(adapters, (loss for r in solved.results for loss in r.losses))
    rows = Inventory(adapters, solved.plan.refused)
    solved = replace(solved, plan=replace(solved.plan, adapters=adapters))
    solved, requested = as_begun(solved, requested, manifest_at(store))
    plan = solved.plan
    hashes = [adapter.content for adapter in plan.adapters]
    state = None
    if plan.recipe.updatable:
        state = first_state(plan.digest, carried_of(plan), sources_of(plan, hashes), solved.sites)
    return Merged(
        plan=plan,
        requested=requested,
        sites=solved.sites,
        hashes=hashes,
        rows=rows,
        numbered=[adapter.adapter_id for adapter in plan.adapters],
        full_weights={k: v for r in solved.results for k, v in r.full_weights.items()},
        zeros=tuple(zero_warnings(solved.sites, plan.adapters, tensors_of(plan, solved.results))),
        state=state,
        more=more,
    )


def as_begun(solved: Solved, requested: str, begun: Mapping[str, Any] | None) -> tuple[Solved, str]:
    """A solved merge under the names and places that its publishing was begun with, if it was.

    A run that was killed while it published has left a manifest. The adapters may have been written
    again since, or copied; what it had written is finished, to the byte.

    Args:
        solved: What a plan gave.
        requested: Digest of the plan as it was asked for.
        begun: The manifest at the output, or None.

    Returns:
        The merge, and the digest to give for the plan that was asked for.
    """
    plan = solved.plan
    if begun is None or not is_merge_of(begun, plan, requested):
        return solved, requested
    sources = begun["sources"]
    ids = [(a.adapter_id, a.content) for a in plan.adapters]
    if [(s["adapter_id"], s.get("tensors_sha256")) for s in sources] != ids:
        return solved, requested
    adapters = tuple(
        replace(a, uri=s["uri"], version=s.get("version", ""), revision=s.get("revision", ""))
        for a, s in zip(plan.adapters, sources, strict=True)
    )
    plan = replace(plan, digest=begun["merge_id"], adapters=adapters)
    return replace(solved, plan=plan), str(begun.get("requested_plan", requested))
