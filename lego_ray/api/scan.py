"""Indexes adapters from their headers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from lego_ray.arguments import checked
from lego_ray.catalog.adapters import record_adapters
from lego_ray.catalog.opening import open_catalog
from lego_ray.merging.plan_run import check_strict
from lego_ray.output.catalog_rows import adapter_rows, catalogued
from lego_ray.planning.arguments import Uri, places
from lego_ray.planning.noise_halves import noise_warnings
from lego_ray.planning.plan import set_aside
from lego_ray.planning.recipe import Recipe
from lego_ray.sources.headers import Counted, scan_sources, untold
from lego_ray.storage.open import open_store
from lego_ray.storage.probe import probe_create_only
from lego_ray.storage.uri import normalise_uri


@checked
def scan(
    sources: Uri | Sequence[Uri],
    *,
    catalog: Uri | None = None,
    exclude: Sequence[str] = (),
    full_weights: str = "refuse",
    checkpoints: str = "last",
    strict: bool = False,
    progress: Counted = untold,
) -> dict[str, Any]:
    """Indexes adapters from their headers, and records them in a catalog if one is given.

    Scanning again writes nothing where nothing changed.

    Args:
        sources: Directories, `s3://bucket/prefix` or `hf://owner/name[@revision]`.
        catalog: Where the catalog is; made if there is none.
        exclude: Glob patterns of adapters to leave out, by name, path or URI.
        full_weights: `refuse` adapters that carry weights that are not low-rank, or `drop` these.
        checkpoints: As for `merge`.
        strict: Raise if an adapter is refused.
        progress: Called with the number of adapters read, and of those there are to read.

    Returns:
        `adapters` (a list of records), `refused` (a list of `{adapter, reason}`), `passed_over` and
        `notes` (as `merge` returns them), `catalog`, `new` (rows written), `bytes_read`, `seconds`,
        `warnings`.

    Raises:
        StrictRefusal: If strict and an adapter was refused.
        StorageError: If a source cannot be read.
    """
    started = time.perf_counter()
    Recipe(name="scan", rank=1, full_weights=full_weights)
    place = None if catalog is None else normalise_uri(catalog)
    opened = None if place is None else open_catalog(place)
    found = scan_sources(
        places(sources),
        exclude=exclude,
        full_weights=full_weights,
        checkpoints=checkpoints,
        progress=progress,
        known=catalogued(opened),
    )
    inventory = found.inventory
    check_strict(inventory, strict)
    rows = adapter_rows(inventory, datetime.now(UTC))
    written = 0
    if opened is not None and place is not None:
        probe_create_only(open_store(place))
        written = record_adapters(opened, rows)
    keep = ("adapter_id", "uri", "revision", "base_model", "format", "rank_min", "rank_max")
    more = ("n_sites", "n_params", "n_bytes", "dtype", "license", "tags")
    return {
        "adapters": [{k: r[k] for k in (*keep, *more)} for r in rows if r["status"] == "ok"],
        "refused": [{"adapter": r.uri, "reason": r.reason} for r in inventory.refused],
        **set_aside(inventory.passed_over, inventory.adapters),
        "catalog": place,
        "new": written,
        "bytes_read": found.bytes_read,
        "seconds": round(time.perf_counter() - started, 3),
        "warnings": [*inventory.about(inventory.adapters)[1], *noise_warnings(inventory.adapters)],
    }
