"""Checks a merged adapter against its manifest, and against its sources in factor space."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lego_ray.errors import ObjectNotFound, VerificationFailed
from lego_ray.execution.extract import content_hash, extract
from lego_ray.execution.publishing.cataloguing import ratio_or_none
from lego_ray.execution.publishing.manifest import MANIFEST_KEY, parse_manifest
from lego_ray.execution.publishing.publish import LAST
from lego_ray.execution.scanning import scan_sources
from lego_ray.execution.solve import one_thread
from lego_ray.execution.task import SourceSlice, tasks_of
from lego_ray.formats.record import AdapterRecord
from lego_ray.numerics.lowrank import UpdateComparison, compare_updates
from lego_ray.planning.inventory import Inventory
from lego_ray.planning.plan import Plan
from lego_ray.planning.planner import make_plan
from lego_ray.planning.recipe import Recipe
from lego_ray.storage.base import Store
from lego_ray.storage.open import open_store
from lego_ray.storage.uri import normalise_uri


def run_verify(merged: str, sources: Sequence[str] | None, memory_budget: int) -> dict[str, Any]:
    """Verifies a merged adapter; see `api.verify` for the promise."""
    uri = normalise_uri(merged)
    store = open_store(uri)
    manifest = _manifest(store)
    _check_files(store, manifest)
    adapter = _reload(uri, manifest)
    report: dict[str, Any] = {
        "merged": uri,
        "merge_id": manifest["merge_id"],
        "ok": True,
        "files": sorted(manifest["files"]),
        "rank": adapter.ranks[0] if len(set(adapter.ranks)) == 1 else max(adapter.ranks),
        "sites": len(adapter.sites),
        "sources": len(manifest["sources"]),
        "errors": None,
    }
    if sources:
        plan = _plan_of(manifest, sources, memory_budget)
        report["errors"] = _errors(plan, adapter, manifest)
    return report


def _manifest(store: Store) -> dict[str, Any]:
    try:
        data = store.read(MANIFEST_KEY)
    except ObjectNotFound as error:
        raise ObjectNotFound(
            store.uri,
            f"there is no {MANIFEST_KEY}, so this is no adapter that lego-ray published",
            "Give the directory that merge wrote.",
        ) from error
    return parse_manifest(data, store.uri)


def _check_files(store: Store, manifest: dict[str, Any]) -> None:
    for key, expected in sorted(manifest["files"].items()):
        try:
            data = store.read(key)
        except ObjectNotFound as error:
            raise VerificationFailed(
                f"{store.uri}/{key}",
                "the manifest lists this file and it is not there",
                "Publishing was cut short: run the same merge again."
                if key == LAST
                else "Merge again to another output.",
            ) from error
        found = hashlib.sha256(data).hexdigest()
        if found != expected["sha256"]:
            raise VerificationFailed(
                f"{store.uri}/{key}",
                f"its sha256 is {found}, the manifest says {expected['sha256']}",
                "The file was changed or damaged after it was published; merge again.",
            )


def _reload(uri: str, manifest: dict[str, Any]) -> AdapterRecord:
    """Reads the adapter as any source is read."""
    inventory = scan_sources([uri], full_weights="keep").inventory
    if len(inventory.adapters) != 1:
        reason = inventory.refused[0].reason if inventory.refused else "no adapter was found"
        raise VerificationFailed(uri, f"it cannot be read back: {reason.rstrip('.')}")
    adapter = inventory.adapters[0]
    if len(adapter.sites) != manifest["sites"]:
        raise VerificationFailed(
            uri, f"it has {len(adapter.sites)} sites, the manifest says {manifest['sites']}"
        )
    return adapter


def _plan_of(manifest: dict[str, Any], sources: Sequence[str], memory_budget: int) -> Plan:
    """The plan of the merge over the sources at hand, each of which must be there."""
    asked = {**manifest["recipe"], "exclude": tuple(manifest["recipe"]["exclude"])}
    recipe = Recipe(**asked)
    found = scan_sources(sources, full_weights=recipe.full_weights).inventory
    at_hand: dict[str, list[AdapterRecord]] = {}
    for adapter in found.adapters:
        at_hand.setdefault(adapter.adapter_id, []).append(adapter)
    taken, weights = [], {}
    for source in manifest["sources"]:
        if not at_hand.get(source["adapter_id"]):
            raise VerificationFailed(
                source["uri"],
                "this source of the merge is not among --sources",
                "Give the places the merge was made from; a changed adapter counts as another.",
            )
        # An adapter merged twice under two URIs is looked for twice.
        same_uri = [a for a in at_hand[source["adapter_id"]] if a.uri == source["uri"]]
        chosen = (same_uri or at_hand[source["adapter_id"]])[0]
        at_hand[source["adapter_id"]].remove(chosen)
        taken.append(chosen)
        # By URI: names may mean other adapters where the sources have moved.
        weights[chosen.uri] = source.get("weight", 1.0)
    recipe = replace(recipe, weights=weights)
    return make_plan(recipe, Inventory.of(taken, ()), memory_budget=memory_budget)


def _errors(plan: Plan, merged: AdapterRecord, manifest: dict[str, Any]) -> dict[str, Any]:
    """Update-space errors by site and overall, exact, no dense matrix formed."""
    per_site = []
    overall = UpdateComparison(0.0, 0.0, 0.0)
    mean_merged, mean_total, mean_inner = 0.0, 0.0, 0.0
    tensors: dict[int, list[tuple[str, str]]] = {}
    last = len(plan.adapters)
    with one_thread():
        for task in tasks_of(plan):
            wanted = {s.site for s in task.group.sites}
            ours = tuple(f for f in merged.sites if f.site in wanted)
            merge = SourceSlice(last, merged.uri, merged.weights_key, ours)
            extraction = extract(replace(task, sources=(*task.sources, merge)))
            for number, error in extraction.quarantined.items():
                raise VerificationFailed(
                    merged.uri if number == last else plan.adapters[number].uri,
                    f"it was changed since the merge: {error.problem}",
                    "Merge again, or give the sources as they were.",
                )
            for number, hashes in extraction.tensor_hashes.items():
                tensors.setdefault(number, []).extend(hashes)
            for site in task.group.sites:
                pool = extraction.pools.pop(site.site)
                itself = pool.adapters == last
                against = compare_updates(pool.rows[itself], pool.rows[~itself], site.d_in)
                share = 1.0 / site.n_adapters
                per_site.append(
                    {
                        "site": site.site,
                        "relative_error_to_sum": ratio_or_none(against.relative_error()),
                        "relative_error_to_mean": ratio_or_none(against.relative_error(share)),
                        "norm_ratio": ratio_or_none(against.norm_ratio),
                    }
                )
                overall += against
                mean_merged += against.merged
                mean_total += against.total * share * share
                mean_inner += against.inner * share
    _check_sources(plan, manifest, tensors)
    mean = UpdateComparison(mean_merged, mean_total, mean_inner)
    return {
        "relative_error_to_sum": ratio_or_none(overall.relative_error()),
        "relative_error_to_mean": ratio_or_none(mean.relative_error()),
        "norm_ratio": ratio_or_none(overall.norm_ratio),
        "sites": per_site,
    }


def _check_sources(
    plan: Plan, manifest: dict[str, Any], tensors: dict[int, list[tuple[str, str]]]
) -> None:
    """Holds the sources' full hashes, which a scan does not take, against the manifest's."""
    expected = sorted((s["adapter_id"], s["tensors_sha256"]) for s in manifest["sources"])
    found = sorted(
        (a.adapter_id, content_hash(tensors.get(number, [])))
        for number, a in enumerate(plan.adapters)
    )
    for (adapter_id, was), (_, now) in zip(expected, found, strict=True):
        if was != now:
            uri = next(a.uri for a in plan.adapters if a.adapter_id == adapter_id)
            raise VerificationFailed(
                uri,
                f"the sha256 over its tensors is {now}, at the time of the merge it was {was}",
                "The source was changed since; merge again.",
            )
