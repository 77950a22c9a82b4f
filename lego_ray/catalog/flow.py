"""Where the MSUs of a merge went, counted: how full clusters are, and whose MSUs are in them."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from lego_ray.catalog.query import closed_connection
from lego_ray.catalog.tables import Catalog

# A cluster's number means nothing beyond its site; its place among the site's by size can be compared.
_SIZED = """
    CREATE TEMP TABLE sized AS
    SELECT site, cluster, count(*) AS msus, count(DISTINCT adapter_id) AS adapters,
        row_number() OVER (PARTITION BY site ORDER BY count(*) DESC, cluster) - 1 AS place
    FROM msus GROUP BY site, cluster
"""
_CLUSTERS = "SELECT site, place, cluster, msus, adapters FROM sized ORDER BY site, place"
_ADAPTERS = """
    SELECT adapter_id, place, count(*) AS msus, count(*) FILTER (adapters = 1) AS alone
    FROM msus JOIN sized USING (site, cluster) GROUP BY adapter_id, place ORDER BY adapter_id, place
"""


@dataclass(frozen=True, slots=True)
class Flow:
    """The MSUs of a merge, counted.

    Attributes:
        clusters: One row a cluster that has members: site; place, from 0, among the site's by falling
            size; cluster, its number there; msus; adapters, how many these are of.
        adapters: One row an adapter and place: adapter_id; place; msus, over all sites; alone, those of
            them in clusters that no other adapter has a part in.
    """

    clusters: pa.Table
    adapters: pa.Table


def flow(catalog: Catalog, merge_id: str) -> Flow | None:
    """Counts the MSUs of a merge.

    Args:
        catalog: Where it is recorded.
        merge_id: The merge.

    Returns:
        None if its method mixes MSUs, so that none went to one cluster.

    Raises:
        CatalogError: If a table cannot be read.
    """
    if not catalog.exists("msus"):
        return None
    columns = ["site", "cluster", "adapter_id"]
    # Only an MSU that is in a cluster has a distance from its centroid.
    wanted = (pc.field("merge_id") == merge_id) & pc.field("distance").is_valid()
    msus = catalog.read("msus", columns, wanted)
    if not msus.num_rows:
        return None
    with closed_connection({"msus": msus}) as connection:
        connection.execute(_SIZED)
        return Flow(*(connection.sql(query).to_arrow_table() for query in (_CLUSTERS, _ADAPTERS)))
