"""Indexes adapters from their headers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Unpack

from lego_ray.arguments import checked_with
from lego_ray.catalog.adapters import record_adapters
from lego_ray.catalog.opening import catalog_at, check_before_writing
from lego_ray.merging.record import entries_set_aside, seconds_since
from lego_ray.options import picked
from lego_ray.output.catalog_rows import adapter_rows, catalogued
from lego_ray.planning.arguments import (
    Uri,
    checkpoints_of,
    limits_of,
    place_or_none,
    sources_given,
)
from lego_ray.planning.inventory import check_strict
from lego_ray.planning.noise_halves import noise_warnings
from lego_ray.planning.options import ScanOptions
from lego_ray.planning.recipe import Recipe
from lego_ray.planning.tags import tagged
from lego_ray.records import TableRecord
from lego_ray.sources.expand import places_of
from lego_ray.sources.headers import Counted, scan_sources, untold
from lego_ray.sources.tags_table import read_tagging

# Columns of the catalog that the record has.
_SHOWN = (
    *("adapter_id", "uri", "revision", "base_model", "format", "rank_min", "rank_max"),
    *("n_sites", "n_params", "n_bytes", "dtype", "license", "tags"),
)


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class ScanRecord(TableRecord):
    """What a scan found.

    Attributes:
        adapters: Each with `adapter_id`, `uri`, `revision`, `base_model`, `format`, `rank_min`,
            `rank_max`, `n_sites`, `n_params`, `n_bytes`, `dtype`, `license` and `tags`.
        refused: Each with `adapter` (URI) and `reason`.
        passed_over: Each with `adapter`, `why` and `checkpoints`, one per training run.
        notes: Each with `adapter` and `note`, on what was set aside.
        counts: How many adapters were found, and what became of them; see `MergeRecord`.
        catalog: URI of the catalog, or None.
        new: Rows of adapters that were written to it.
        bytes_read: Bytes that the call read.
        seconds: How long the call took.
        warnings: What the user should know.
    """

    rows_of = "adapters"
    columns = _SHOWN

    adapters: tuple[Mapping[str, Any], ...]
    refused: tuple[Mapping[str, Any], ...]
    passed_over: tuple[Mapping[str, Any], ...]
    notes: tuple[Mapping[str, Any], ...]
    counts: Mapping[str, int]
    catalog: str | None
    new: int
    bytes_read: int
    seconds: float
    warnings: tuple[str, ...]

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {len(self.adapters)} adapters, {len(self.refused)} refused, "
            f"{self.new} new>"
        )


@checked_with(ScanOptions)
def scan(
    sources: Uri | Sequence[Uri],
    *,
    catalog: Uri | None = None,
    progress: Counted = untold,
    **options: Unpack[ScanOptions],
) -> ScanRecord:
    """Indexes adapters from their headers, and records them in a catalog if one is given.

    Scanning again writes nothing where nothing changed.

    Args:
        sources: Directories, `s3://bucket/prefix` or `hf://owner/name[@revision]`.
        catalog: Where the catalog is; created if missing.
        progress: Called with the number of adapters read, and of those there are to read.
        **options: See `ScanOptions`.

    Returns:
        What was found; see `ScanRecord`, which is read like a dictionary too.

    Raises:
        StrictRefusal: If strict and an adapter was refused.
        StorageError: If a source cannot be read.
    """
    started = time.perf_counter()
    asked = picked(ScanOptions, options)
    Recipe(name="scan", rank=1, full_weights=asked["full_weights"])
    place = place_or_none(catalog)
    opened = None if place is None else catalog_at(place)
    tagging = read_tagging(asked["tags"], asked["tags_from_folders"])
    given = sources_given(sources)
    found = scan_sources(
        given,
        exclude=asked["exclude"],
        full_weights=asked["full_weights"],
        checkpoints=checkpoints_of(options),
        limits=limits_of(options),
        progress=progress,
        known=catalogued(opened),
    )
    inventory = tagged(found.inventory, tagging, places_of(given))
    check_strict(inventory, asked["strict"])
    rows = adapter_rows(inventory, datetime.now(UTC))
    written = 0
    if opened is not None:
        check_before_writing(opened, tables=("adapters",))
        written = record_adapters(opened, rows, are_tags_whole=True)
    return ScanRecord(
        adapters=tuple({k: row[k] for k in _SHOWN} for row in rows if row["status"] == "ok"),
        **entries_set_aside(inventory),
        counts=inventory.counts.as_json(),
        catalog=None if place is None else str(place),
        new=written,
        bytes_read=found.bytes_read,
        seconds=seconds_since(started),
        warnings=(
            *inventory.about(inventory.adapters)[1],
            *noise_warnings(inventory.adapters),
        ),
    )
