"""What was done to a catalog, newest first: scans that found something, and merges."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import datetime
from typing import Any

import pyarrow as pa

from lego_ray.catalog.history import list_merges
from lego_ray.catalog.tables import Catalog
from lego_ray.errors import CatalogNotFound

_COLUMNS = {
    "time": pa.timestamp("us", tz="UTC"),
    "event": pa.string(),
    "name": pa.string(),
    "version": pa.int64(),
    "adapters": pa.int64(),
    "refused": pa.int64(),
    "rank": pa.int64(),
    "merge_id": pa.string(),
    "output_uri": pa.string(),
}


def events(catalog: Catalog, since: datetime | None = None) -> pa.Table:
    """Lists what was done, newest first, as far as the rows that are there say.

    Args:
        catalog: Where to look.
        since: The first moment; None for all.

    Returns:
        One row for each moment at which adapters were first found to be as they are recorded (event
        `scan`, with how many were usable and refused), and for each merge (event `merge`, with its
        name, version, number of adapters, rank, merge_id and output_uri).

    Raises:
        CatalogNotFound: If the catalog has no table yet.
    """
    catalog.required_tables()
    found = [*_scans(catalog), *_merges(catalog)]
    if since is not None:
        found = [row for row in found if row["time"] >= since]
    found.sort(key=lambda row: (row["time"], row["event"], row["merge_id"] or ""), reverse=True)
    rows = [{name: row.get(name) for name in _COLUMNS} for row in found]
    return pa.Table.from_pylist(rows, schema=pa.schema(list(_COLUMNS.items())))


def _scans(catalog: Catalog) -> list[dict[str, Any]]:
    if not catalog.exists("adapters"):
        return []
    found: dict[datetime, Counter[bool]] = defaultdict(Counter)
    for row in catalog.read("adapters", ["scanned_at", "status"]).to_pylist():
        found[row["scanned_at"]][row["status"] == "ok"] += 1
    return [
        {"time": time, "event": "scan", "adapters": n[True], "refused": n[False], "merge_id": None}
        for time, n in found.items()
    ]


def _merges(catalog: Catalog) -> list[dict[str, Any]]:
    try:
        rows = list_merges(catalog).to_pylist()
    except CatalogNotFound:  # only scanned so far
        return []
    return [
        {
            **{
                name: row.get(name)
                for name in ("name", "version", "rank", "merge_id", "output_uri")
            },
            "time": row["created_at"],
            "event": "merge",
            "adapters": len(row["adapter_ids"]),
        }
        for row in rows
    ]
