"""A plan that was solved, on its way to `finish`: under which names it is written, and its record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from lego_ray import journal
from lego_ray.catalog.tables import Catalog
from lego_ray.catalog.tenure import Tenure
from lego_ray.merging.finish import Merged, finish
from lego_ray.merging.plan_run import (
    Solved,
    contents_of,
    tensors_of,
)
from lego_ray.merging.record import MergeRecord, record_of
from lego_ray.merging.stages import Stages
from lego_ray.output.adapter_files import carried_of
from lego_ray.output.checkpoints.checkpoints import Checkpoints
from lego_ray.output.manifest import sources_of
from lego_ray.output.nothing import zero_warnings
from lego_ray.output.running_sums import first_state
from lego_ray.output.write import is_merge_of, manifest_at
from lego_ray.planning.inventory import Inventory
from lego_ray.storage.base import Store


def publish_solved(
    solved: Solved,
    requested: str,
    store: Store,
    catalog: Catalog | None,
    checkpoints: Checkpoints,
    *,
    started: float,
    bytes_read: int,
    stages: Stages,
    more: Mapping[str, Any] = MappingProxyType({}),
    tenure: Tenure | None = None,
) -> MergeRecord:
    """Writes a merged adapter and its rows, deletes what was kept on the way, and gives its record.

    Args:
        solved: What a plan gave.
        requested: Digest of the plan as it was asked for.
        store: The output.
        catalog: Where it is recorded, or None.
        checkpoints: What was kept.
        started: When the run began, by `time.perf_counter`.
        bytes_read: Bytes it read.
        stages: Where its time went so far.
        more: What its manifest says besides; see `manifest_of`.
        tenure: The turn at the library that it is made in, if there are turns.

    Raises:
        RunFailed: If a later turn has begun; the merge is not recorded.
    """
    merged = _merged(solved, requested, store, more)
    plan, status = finish(merged, store, catalog, started=started, stages=stages, tenure=tenure)
    checkpoints.clear()
    record = record_of(
        plan,
        status=status,
        output=store.uri,
        catalog=catalog.uri if catalog else None,
        started=started,
        bytes_read=bytes_read,
        resumed_sites=solved.resumed_sites,
    )
    journal.note(
        status,
        plan.digest,
        output=record.output,
        adapters=len(record.adapters),
        sites=record.sites,
        seconds=record.seconds,
        bytes_read=record.bytes_read,
        resumed_sites=record.resumed_sites,
    )
    return record


def _merged(solved: Solved, requested: str, store: Store, more: Mapping[str, Any]) -> Merged:
    """What a plan gave, as it is to be written."""
    contents = contents_of(solved.plan, solved.results)
    adapters = tuple(replace(a, content=contents[a.uri]) for a in solved.plan.adapters)
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
