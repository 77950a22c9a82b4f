"""Checks a merged adapter against its manifest, and against its sources in factor space."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lego_ray.errors import ObjectNotFound, VerificationFailed
from lego_ray.formats.identity import family
from lego_ray.formats.record import AdapterRecord
from lego_ray.output.damage import EDITED, is_edited_card
from lego_ray.output.manifest import listed_files
from lego_ray.output.read import checked_files, read_manifest
from lego_ray.planning.by_head import is_by_heads
from lego_ray.planning.inventory import Inventory, keep_full_weights_of
from lego_ray.planning.naming import named_as
from lego_ray.planning.plan import Plan
from lego_ray.planning.recipe import recipe_from
from lego_ray.planning.source_changes import Attempt, warning
from lego_ray.sources.confirm import confirm
from lego_ray.sources.contents import content_hash
from lego_ray.sources.headers import Counted, scan_sources, untold
from lego_ray.sources.recorded import folder_of
from lego_ray.sources.rescan import rescanning
from lego_ray.storage.base import Store
from lego_ray.storage.places import Place
from lego_ray.storage.versions import changed
from lego_ray.verification.compare import Compared, Watch, compare
from lego_ray.verification.figures import errors_of
from lego_ray.verification.plan import Comparison, plan_comparison
from lego_ray.verification.record import Verification


def run_verify(
    merged: Place,
    sources: Sequence[str],
    memory_budget: int,
    progress: Counted = untold,
    base: str = "",
) -> Verification:
    """Verifies a merged adapter; see `api.verify` for the promise."""
    return rescanning(
        lambda attempt: _verify_once(attempt, merged, sources, memory_budget, progress, base)
    )


def _verify_once(
    attempt: Attempt,
    place: Place,
    sources: Sequence[str],
    memory_budget: int,
    progress: Counted,
    base: str,
) -> Verification:
    """Verifies a merged adapter as it is now.

    Raises:
        SourceChanged: If a file of a source or of the merge is not the one that was scanned.
    """
    merge = checked_merge(place, base)
    errors = None
    if sources:
        plan, compared = compare_with_sources(
            merge.manifest, sources, merge.adapter, memory_budget, progress=progress
        )
        errors = errors_of(plan, compared.sites)
    return Verification(
        merged=merge.uri,
        merge_id=merge.manifest["merge_id"],
        files=tuple(sorted(merge.manifest["files"].keys() - merge.edited)),
        rank=max(merge.adapter.ranks),
        sites=len(merge.adapter.sites),
        sources=len(merge.manifest["sources"]),
        errors=errors,
        warnings=(*(EDITED for _ in merge.edited), *map(warning, attempt.changes)),
    )


@dataclass(frozen=True, slots=True)
class CheckedMerge:
    """A published merge whose files are those of its manifest.

    Attributes:
        uri: Where it is.
        manifest: Its manifest.
        adapter: The merged adapter, read back.
        edited: Names of its files that people have edited, as they may.
    """

    uri: str
    manifest: dict[str, Any]
    adapter: AdapterRecord
    edited: frozenset[str]


def checked_merge(place: Place, base: str = "") -> CheckedMerge:
    """Holds a published merge's files against its manifest, and reads its headers.

    Args:
        place: Where it is.
        base: Where the base model is now; empty for what the manifest says.

    Raises:
        ObjectNotFound: If there is no merge.
        VerificationFailed: If a file is not what the manifest says.
        SourceChanged: If the weights change meanwhile.
    """
    store, uri = place.open(), str(place)
    manifest, _ = read_manifest(store)
    if base:
        manifest = {**manifest, "recipe": {**manifest["recipe"], "base": base}}
    marks = dict(_marks(store, listed_files(manifest, store.uri)))
    edited = {
        key for key, data in checked_files(store, manifest) if is_edited_card(manifest, key, data)
    }
    adapter = reload_merged(place, manifest)
    if marks.get(adapter.weights_key) != adapter.version:
        raise changed(f"{uri}/{adapter.weights_key}")
    return CheckedMerge(uri, manifest, adapter, frozenset(edited))


def compare_with_sources(
    manifest: dict[str, Any],
    sources: Sequence[str],
    merged: AdapterRecord,
    memory_budget: int,
    watching: Callable[[Plan], Watch] | None = None,
    progress: Counted = untold,
) -> tuple[Plan, Compared]:
    """Compares a merge with its sources, each of which must be as it was.

    Args:
        manifest: The merge's.
        sources: Where they are now.
        merged: The merged adapter, read back.
        memory_budget: Most bytes to take.
        watching: Makes what looks at the sources too, while they are available.
        progress: Called with the number of sites compared, and of those there are.

    Returns:
        How they were compared, and what came of it.

    Raises:
        SourceChanged: If a file of a source or of the merge is not the one that was scanned.
        VerificationFailed: If a source is not there or not what the manifest says.
        InvalidOption: If the budget does not hold the merged adapter and one source at a site.
    """
    plan, work = _plan_of(manifest, sources, merged, memory_budget)
    confirm(plan.adapters, weights=False)
    compared = compare(plan, work, merged, watching(plan) if watching else None, progress)
    confirm((*plan.adapters, merged))
    _check_sources(plan, manifest, compared.tensor_hashes)
    return plan, compared


def _marks(store: Store, keys: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Versions of files, by key; those that are not there are left to who reads them."""
    for key in keys:
        with contextlib.suppress(ObjectNotFound):
            yield key, store.stat(key).version


def reload_merged(place: Place, manifest: dict[str, Any]) -> AdapterRecord:
    """Reads the adapter as any source is read."""
    uri = str(place)
    inventory = scan_sources([place], full_weights="keep", checkpoints="all").inventory
    published = set(manifest["files"])
    here = place.pinned("")
    mine = [
        adapter
        for adapter in inventory.adapters
        if folder_of(adapter).pinned("") == here and adapter.weights_key in published
    ]
    if len(mine) != 1:
        reason = inventory.refused[0].reason if inventory.refused else "no adapter was found"
        raise VerificationFailed(uri, f"it cannot be read back: {reason.rstrip('.')}")
    adapter = mine[0]
    stored = manifest.get("stored_sites", manifest["sites"])
    if len(adapter.sites) != stored:
        raise VerificationFailed(
            uri, f"it has {len(adapter.sites)} sites, the manifest says {stored}"
        )
    return adapter


def _plan_of(
    manifest: dict[str, Any], sources: Sequence[str], merged: AdapterRecord, memory_budget: int
) -> tuple[Plan, Comparison]:
    """How to compare the merge with the sources available, each of which must be there."""
    recipe = recipe_from(manifest["recipe"], f"merge {manifest['merge_id'][:12]}")
    # Whatever was merged is looked for, by what it is and not by where it lies.
    found = scan_sources(
        sources, full_weights=recipe.full_weights, checkpoints="all", base=recipe.base
    ).inventory
    at_hand: dict[str, list[AdapterRecord]] = {}
    for adapter in found.adapters:
        at_hand.setdefault(family(adapter.adapter_id), []).append(adapter)
    taken, weights = [], {}
    for source in manifest["sources"]:
        mine = at_hand.get(family(source["adapter_id"]), [])
        if not mine:
            raise VerificationFailed(
                source["uri"],
                "this source of the merge was not found under --sources",
                "Give the places the merge was made from; a changed adapter counts as a different one.",
            )
        # An adapter merged twice under two URIs is looked for twice. Whether its weights are those
        # that were merged is seen when they are read.
        chosen = min(mine, key=lambda a: (_other(a, source), a.uri != source["uri"]))
        mine.remove(chosen)
        chosen = replace(chosen, adapter_id=source["adapter_id"])
        taken.append(chosen)
        # By URI: names may mean other adapters where the sources have moved.
        weights[chosen.uri] = source.get("weight", 1.0)
    layout = manifest.get("format", merged.format)
    known = {f.site: (f.d_in, f.d_out) for f in merged.sites}
    by_heads = is_by_heads(merged.config)
    taken = list(named_as(taken, known, layout, by_heads=by_heads))
    if manifest.get("parent"):  # an update leaves out modules that the merge before it had not
        taken = [replace(a, sites=tuple(f for f in a.sites if f.site in known)) for a in taken]
    inventory = keep_full_weights_of(Inventory.of(taken, ()), recipe.full_weights)
    return plan_comparison(
        recipe,
        inventory,
        [weights[adapter.uri] for adapter in inventory.adapters],
        merged,
        merge_id=manifest["merge_id"],
        memory_budget=memory_budget,
    )


def _other(adapter: AdapterRecord, source: Mapping[str, Any]) -> bool:
    """Whether an adapter is known to have other weights than a source of a merge had."""
    return bool(adapter.content) and adapter.content != source.get("tensors_sha256")


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
