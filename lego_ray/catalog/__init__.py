"""The catalog: Delta tables of what was scanned and what was merged, and SQL over them.

The calls here take a catalog's URI, as `lego-ray catalog` does; the modules have the parts.
"""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

    from lego_ray.catalog.history import MergeDetail


def sql(catalog: str | PathLike[str], query: str) -> pa.Table:
    """Answers one SELECT over the catalog's tables with DuckDB; see `query.sql`.

    Raises:
        CatalogNotFound: If the catalog has no table yet.
        QueryError: If the query is not one SELECT, or cannot be answered.
    """
    from lego_ray.catalog.opening import open_catalog
    from lego_ray.catalog.query import sql as answer

    return answer(open_catalog(catalog), query)


def list_merges(catalog: str | PathLike[str]) -> pa.Table:
    """Lists the merges, newest first; see `history.list_merges`.

    Raises:
        CatalogNotFound: If nothing was merged into this catalog yet.
    """
    from lego_ray.catalog.history import list_merges as listed
    from lego_ray.catalog.opening import open_catalog

    return listed(open_catalog(catalog))


def show(catalog: str | PathLike[str], merge: str) -> MergeDetail:
    """Finds one merge by name or merge_id; see `history.show`.

    Raises:
        CatalogNotFound: If nothing was merged into this catalog yet.
        InvalidOption: If no merge fits, or several do.
    """
    from lego_ray.catalog.history import show as shown
    from lego_ray.catalog.opening import open_catalog

    return shown(open_catalog(catalog), merge)


def lineage(catalog: str | PathLike[str], merge: str) -> pa.Table:
    """Says which adapters a merge is made of, and each one's share; see `history.lineage`.

    Raises:
        CatalogNotFound: If nothing was merged into this catalog yet.
        InvalidOption: If no merge fits, or several do.
    """
    from lego_ray.catalog.history import lineage as traced
    from lego_ray.catalog.opening import open_catalog

    return traced(open_catalog(catalog), merge)
