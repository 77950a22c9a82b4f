"""A plan and its results as rows of the catalog's tables."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from lego_ray.catalog.adapters import seen_adapters
from lego_ray.catalog.msus import MsuRows, SiteMsus
from lego_ray.catalog.tables import Catalog
from lego_ray.formats.identity import adapter_id_of
from lego_ray.formats.peft_config import CONFIG_NAME
from lego_ray.formats.record import AdapterRecord, sharing_sites
from lego_ray.lazy import np
from lego_ray.output.manifest import versions
from lego_ray.planning.inventory import Inventory
from lego_ray.planning.plan import Plan
from lego_ray.planning.recipe import canonical_json
from lego_ray.sources.identities import NOTHING, Known, Sighting
from lego_ray.tasks.values import SiteResult, TaskResult


def adapter_rows(inventory: Inventory, scanned_at: datetime) -> list[dict[str, Any]]:
    """Rows of `adapters`: one an adapter, taken or not."""
    of_sites = {id(a.sites): _of_sites(a) for a, *_ in sharing_sites(inventory.adapters)}
    rows: list[dict[str, Any]] = [
        {
            "adapter_id": a.adapter_id,
            "uri": a.uri,
            "revision": a.revision or None,
            "base_model": a.base_model,
            "format": a.format,
            **of_sites[id(a.sites)],
            "n_bytes": a.n_bytes,
            "license": a.license,
            "tags": dict(a.tags),
            "status": "ok",
            "reason": None,
            "scanned_at": scanned_at,
            "mark": a.mark or None,
            "content_sha256": a.content or None,
        }
        for a in inventory.adapters
    ]
    rows += [
        {
            "adapter_id": r.adapter_id or None,
            "uri": r.uri,
            "base_model": r.base_model or None,
            "n_bytes": r.n_bytes or None,
            "license": r.license or None,
            "tags": dict(r.tags) or None,
            "status": r.status,
            "reason": r.reason,
            "scanned_at": scanned_at,
            "mark": r.version or None,
            "content_sha256": r.content or None,
        }
        for r in inventory.refused
    ]
    return rows


def _of_sites(adapter: AdapterRecord) -> dict[str, Any]:
    """The columns that depend on an adapter's sites alone."""
    return {
        "rank_min": min(adapter.ranks),
        "rank_max": max(adapter.ranks),
        "n_sites": len(adapter.sites),
        "n_params": adapter.n_params,
        "dtype": adapter.dtype,
    }


def catalogued(catalog: Catalog | None) -> Known:
    """What a catalog says of the adapters that earlier runs saw; nothing if there is none.

    Raises:
        StorageError: If the store could not be reached or refused access.
    """
    return NOTHING if catalog is None else sightings_in(seen_adapters(catalog))


def sightings_in(rows: Iterable[Mapping[str, Any]]) -> Known:
    """What rows of `adapters` say."""
    return Known(
        Sighting(
            row["adapter_id"],
            row["uri"],
            row["mark"] or "",
            row["content_sha256"] or "",
            int(row["scanned_at"].timestamp() * 1e9) if row.get("scanned_at") else 0,
        )
        for row in rows
    )


def merge_row(
    plan: Plan,
    *,
    output: str,
    files: Mapping[str, bytes],
    n_sites: int,
    n_msus: int,
    created_at: datetime,
    seconds: float,
    stages: Sequence[Mapping[str, Any]] = (),
    drift: float | None = None,
) -> dict[str, Any]:
    """The row of `merges`; the catalog counts its version."""
    weights = files[plan.weights_name]
    return {
        "merge_id": plan.digest,
        "name": plan.recipe.name,
        "parent_id": plan.recipe.parent or None,
        "method": plan.recipe.method,
        "rank": plan.rank,
        "recipe": canonical_json(plan.recipe.as_json()),
        "seed": plan.recipe.seed,
        "adapter_ids": [a.adapter_id for a in plan.adapters],
        "output_uri": output,
        "content_hash": hashlib.sha256(weights).hexdigest(),
        "status": "ok",
        "created_at": created_at,
        "seconds": seconds,
        "versions": versions(),
        "licenses": list(plan.licenses),
        "license_conflicts": list(plan.license_conflicts),
        "output_adapter_id": adapter_id_of(files.get(CONFIG_NAME), weights),
        "n_sites": n_sites,
        "n_msus": n_msus,
        "stages": list(stages),
        "drift": drift,
    }


def site_rows(merge_id: str, sites: Iterable[SiteResult]) -> list[dict[str, Any]]:
    """Rows of `merge_sites`."""
    return [
        {
            "merge_id": merge_id,
            "site": s.plan.site,
            "d_in": s.plan.d_in,
            "d_out": s.plan.d_out,
            "n_msus": s.plan.n_msus,
            "rank": s.a.shape[0],
            "inertia": s.inertia,
            "iterations": s.iterations,
            "relative_error": ratio_or_none(s.relative_error),
            "norm_ratio": ratio_or_none(s.norm_ratio),
        }
        for s in sites
    ]


def ratio_or_none(value: float) -> float | None:
    """A ratio, or None for one to a sum of zero, which is not a number."""
    return value if math.isfinite(value) else None


def msu_rows(merge_id: str, sites: Iterable[SiteResult], adapter_ids: Sequence[str]) -> MsuRows:
    """Rows of `msus`; there are about as many as ranks in the whole zoo."""
    return MsuRows(merge_id, adapter_ids, msus_of(sites))


def without_lineage(result: TaskResult) -> TaskResult:
    """A result whose sites do not say where their MSUs went."""
    none = np.empty(0, np.int32)
    return replace(
        result,
        sites=tuple(
            replace(s, adapters=none, ranks=none, clusters=None, distances=None, weights=None)
            for s in result.sites
        ),
    )


def msus_of(sites: Iterable[SiteResult]) -> list[SiteMsus]:
    """The rows of sites; none of a site whose method does not say where its MSUs went."""
    return [
        SiteMsus(s.plan.site, s.adapters, s.ranks, s.clusters, s.distances, s.weights)
        for s in sites
        if s.clusters is not None
    ]
