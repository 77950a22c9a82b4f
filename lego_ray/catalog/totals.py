"""Figures over all merges of a catalog at once, and the sizes of its tables; in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lego_ray.catalog.ancestry import shares
from lego_ray.catalog.tables import Catalog

# Detail rows that are read at once, where a single merge does not have more.
BATCH_ROWS = 1 << 20
# What a merge counts as that was recorded before its numbers of rows were.
_UNKNOWN_ROWS = 1 << 16


@dataclass(frozen=True, slots=True)
class TableSize:
    """What a table takes in the store, without files that were replaced.

    Attributes:
        table: Its name.
        rows: Its rows.
        files: Its data files.
        n_bytes: Their size.
    """

    table: str
    rows: int
    files: int
    n_bytes: int

    def as_json(self) -> dict[str, Any]:
        """The size as JSON, `bytes` for `n_bytes`."""
        return {
            "table": self.table,
            "rows": self.rows,
            "files": self.files,
            "bytes": self.n_bytes,
        }


def table_sizes(catalog: Catalog) -> list[TableSize]:
    """The sizes of the tables that exist, from their logs.

    Raises:
        CatalogNotFound: If the catalog has no table yet.
    """
    sizes = []
    for table in catalog.required_tables():
        actions = pa.table(catalog.open(table).get_add_actions())
        totals = (
            pc.sum(actions[name], min_count=0).as_py() for name in ("num_records", "size_bytes")
        )
        rows, n_bytes = totals
        sizes.append(TableSize(table, int(rows or 0), actions.num_rows, int(n_bytes or 0)))
    return sizes


def shares_by_merge(
    catalog: Catalog, merges: Sequence[Mapping[str, Any]]
) -> Iterator[dict[tuple[str, str], dict[str, Any]]]:
    """What `ancestry.shares` says of some merges, a batch of merges at a time.

    Args:
        catalog: Where to look.
        merges: Rows of `merges`.
    """
    for batch in _batches(merges, "n_msus"):
        yield shares(catalog, batch)


def site_totals(
    catalog: Catalog, merges: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, float | None]]:
    """Sums the sites of each merge up.

    Args:
        catalog: Where to look.
        merges: Rows of `merges`.

    Returns:
        By merge_id: `error` and `norm_ratio`, means over the sites, and `error_max`, the worst; None
        where no site has one. Merges without sites are left out.
    """
    if not catalog.exists("merge_sites"):
        return {}
    found: dict[str, dict[str, float | None]] = {}
    columns = ["merge_id", "relative_error", "norm_ratio"]
    for batch in _batches(merges, "n_sites"):
        wanted = pc.field("merge_id").isin(pa.array(batch, pa.string()))
        totals = (
            catalog.read("merge_sites", columns, wanted)
            .group_by("merge_id", use_threads=False)
            .aggregate(
                [("relative_error", "mean"), ("relative_error", "max"), ("norm_ratio", "mean")]
            )
        )
        for row in totals.to_pylist():
            found[row["merge_id"]] = {
                "error": row["relative_error_mean"],
                "error_max": row["relative_error_max"],
                "norm_ratio": row["norm_ratio_mean"],
            }
    return found


def _batches(merges: Sequence[Mapping[str, Any]], rows: str) -> Iterator[list[str]]:
    """merge_ids of merges that have so many detail rows together."""
    batch: list[str] = []
    n_rows = 0
    for merge in merges:
        own = _UNKNOWN_ROWS if merge[rows] is None else merge[rows]
        if batch and n_rows + own > BATCH_ROWS:
            yield batch
            batch, n_rows = [], 0
        batch.append(merge["merge_id"])
        n_rows += own
    if batch:
        yield batch
