"""Records a merged adapter that was published and not recorded, from what lies at its output."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from os import PathLike
from typing import Any

import pyarrow.compute as pc

from lego_ray.arguments import checked
from lego_ray.audit.record import AdoptRecord
from lego_ray.audit.repair import adapters_of
from lego_ray.catalog.adapters import record_adapters, seen_adapters
from lego_ray.catalog.merges import append_merge
from lego_ray.catalog.opening import check_before_writing, has_merge, open_catalog
from lego_ray.catalog.tables import Catalog
from lego_ray.output.manifest import marker_of, weights_of
from lego_ray.planning.recipe import canonical_json
from lego_ray.sources.rescan import rescanning
from lego_ray.storage.base import Store
from lego_ray.storage.uri import parse_uri
from lego_ray.verification.against_manifest import CheckedMerge, checked_merge


@checked
def adopt_merge(merged: str | PathLike[str], *, catalog: str | PathLike[str]) -> AdoptRecord:
    """Records a merge that was published without a catalog, or before its catalog failed.

    All files are verified first. The row of `merges` and those of its adapters come from the manifest.
    It does not have where each MSU went, so `lineage` of the merge has rows only if its details had been
    written. To record them too, run the same `merge` again with this catalog before `adopt_merge`.

    Args:
        merged: The merged adapter: a directory or `s3://bucket/prefix`.
        catalog: The catalog; created if missing.

    Returns:
        What was recorded; see `AdoptRecord`, which is read like a dictionary too.

    Raises:
        VerificationFailed: If a file is not what its manifest says.
        CatalogVersionMismatch: If a table is of another schema version.
        CatalogError: If rows cannot be added.
        StorageError: If a store could not be reached or refused access.
    """
    store = parse_uri(merged).open()
    merge = rescanning(lambda attempt: checked_merge(store.place))
    manifest = merge.manifest
    opened = open_catalog(catalog)
    sites, msus = _details(opened, manifest)
    recorded = False
    if not has_merge(opened, manifest["merge_id"]):
        check_before_writing(opened)
        row = _row(merge, store, sites, msus)
        known = {each["adapter_id"] for each in seen_adapters(opened)}
        named = adapters_of(manifest, row["created_at"])
        record_adapters(opened, [each for each in named if each["adapter_id"] not in known])
        recorded = append_merge(opened, row, [], [])
    return AdoptRecord(
        merged=merge.uri,
        merge_id=manifest["merge_id"],
        name=manifest["name"],
        catalog=opened.uri,
        status="recorded" if recorded else "already recorded",
        has_details=sites is not None,
    )


def _row(merge: CheckedMerge, store: Store, sites: int | None, msus: int | None) -> dict[str, Any]:
    """The row of `merges` for files that were verified; its time is that of the file written last."""
    manifest, adapter = merge.manifest, merge.adapter
    recipe = manifest["recipe"]
    return {
        "merge_id": manifest["merge_id"],
        "name": manifest["name"],
        "parent_id": recipe.get("parent") or None,
        "method": recipe["method"],
        "rank": max(adapter.ranks),
        "recipe": canonical_json(recipe),
        "seed": recipe["seed"],
        "adapter_ids": [source["adapter_id"] for source in manifest["sources"]],
        "output_uri": store.uri,
        "content_hash": manifest["files"][weights_of(manifest)]["sha256"],
        "status": "ok",
        "created_at": store.stat(marker_of(manifest)).modified_at or datetime.now(UTC),
        "seconds": 0.0,
        "versions": manifest["versions"],
        "licenses": manifest.get("licenses"),
        "license_conflicts": manifest.get("license_conflicts"),
        "output_adapter_id": adapter.adapter_id,
        "n_sites": sites,
        "n_msus": msus,
        "drift": manifest.get("drift"),
    }


def _details(catalog: Catalog, manifest: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Numbers of rows of `merge_sites` and `msus` that were written for it; None if not all were."""
    merge_id = manifest["merge_id"]
    sites = _count(catalog, "merge_sites", merge_id)
    if sites != manifest["sites"]:
        return None, None
    return sites, _count(catalog, "msus", merge_id)


def _count(catalog: Catalog, table: str, merge_id: str) -> int:
    if not catalog.exists(table):
        return 0
    mine = pc.field("merge_id") == merge_id
    return int(catalog.whole(table, mine).count_rows(filter=mine))
