"""Where a merge came from: its adapters, and the source ranks of each of its own."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lego_ray.catalog.groups import group_of_merge
from lego_ray.catalog.history import list_merges, merge_of
from lego_ray.catalog.tables import Catalog
from lego_ray.errors import InvalidOption

# Shares are rounded, so those of a rank that are all named add up to 1 less or more than a few of this.
_LEAST = 1e-5


def lineage(catalog: Catalog, merge: str, version: int | None = None) -> pa.Table:
    """Says which adapters a merge is made of, and how much of it is each one's.

    Args:
        catalog: Where to look.
        merge: As for `history.show`.
        version: As for `history.show`.

    Returns:
        One row an adapter, in the merge's own order: adapter_id; uri (null if it was never
        scanned into this catalog); msus, its ranks that went in; clusters, the merged ranks it
        is part of (of a method that mixes MSUs, both as far as their shares are named); weight, the
        sum of all its shares, in merged ranks; share, that of the whole merge (null if none is
        recorded); merge_id, the merge whose output it is (null if it is
        none's); similarity to the others, as in `groups` (null if it was not for
        that that they were merged).

    Raises:
        CatalogNotFound: If nothing was merged into this catalog yet.
        InvalidOption: If no merge fits, or several do.
    """
    merges = list_merges(catalog).to_pylist()
    row = merge_of(catalog, merges, merge, version)
    ids: list[str] = row["adapter_ids"]
    found = shares(catalog, [row["merge_id"]])
    uris = known_uris(catalog)
    made = outputs(merges, uris)
    grouped = group_of_merge(catalog, row["merge_id"])
    alike = {r["adapter_id"]: r["similarity"] for r in grouped.to_pylist()}

    weights = [found.get((row["merge_id"], i), {}).get("weight") for i in ids]

    def column(name: str, kind: pa.DataType) -> pa.Array:
        return pa.array([found.get((row["merge_id"], i), {}).get(name, 0) for i in ids], kind)

    return pa.table(
        {
            "adapter_id": pa.array(ids, pa.string()),
            "uri": pa.array([uris[i][-1] if i in uris else None for i in ids], pa.string()),
            "msus": column("msus", pa.int64()),
            "clusters": column("clusters", pa.int64()),
            "weight": column("weight", pa.float64()),
            "share": pa.array(parts_of_whole(weights), pa.float64()),
            "merge_id": pa.array([made[i][0] if i in made else None for i in ids], pa.string()),
            "similarity": pa.array([alike.get(i) for i in ids], pa.float64()),
        }
    )


def rank_sources(
    catalog: Catalog,
    merge: str,
    *,
    site: str | None = None,
    rank: int | None = None,
    version: int | None = None,
) -> pa.Table:
    """Says which source ranks each merged rank is made of.

    Args:
        catalog: Where to look.
        merge: As for `history.show`.
        site: The one site to look at; None for all.
        rank: The one merged rank to look at, a row of A from 0; None for all.
        version: As for `history.show`.

    Returns:
        One row a source rank, by site, merged rank and falling weight: site, cluster (the merged rank),
        adapter_id, uri (null if it was never scanned into this catalog), rank_index, weight and
        distance as in `msus`. Where not all shares of a merged rank are named, a last row of it has
        the rest as its weight, and neither adapter nor rank_index.

    Raises:
        CatalogNotFound: If nothing was merged into this catalog yet.
        InvalidOption: If no merge fits, it has no such site or rank, or it was recorded before the
            lineage of its method was.
    """
    row = merge_of(catalog, list_merges(catalog).to_pylist(), merge, version)
    wanted = pc.field("merge_id") == row["merge_id"]
    ranks = _ranks(catalog, wanted)
    if site is not None and site not in ranks:
        near = difflib.get_close_matches(site, ranks, 1)
        hint = f"Did you mean {near[0]}?" if near else f"It has {', '.join(sorted(ranks)[:5])}, ..."
        raise InvalidOption("--site", f"{merge} has no site {site}", hint)
    here = ranks if site is None else {site: ranks[site]}
    if rank is not None and not 0 <= rank < max(here.values(), default=0):
        most = max(here.values(), default=0)
        raise InvalidOption("--rank", f"rank {rank} does not exist; ranks are 0 to {most - 1}")
    rows: list[dict[str, Any]] = []
    if catalog.exists("msus"):
        if site is not None:
            wanted &= pc.field("site") == site
        wanted &= pc.field("cluster") >= 0 if rank is None else pc.field("cluster") == rank
        names = ["site", "cluster", "adapter_id", "rank_index", "weight", "distance"]
        rows = catalog.read("msus", names, wanted).to_pylist()
    if not rows:
        raise InvalidOption(
            merge,
            f"no source ranks are recorded of it here: its method, {row['method']}, mixes MSUs, and "
            "releases before schema version 5 recorded nothing of such; or these ranks are zero",
            "Merge again with this release for its lineage, or leave out --site and --rank to list its "
            "adapters.",
        )
    uris = known_uris(catalog)
    rows += _rests(rows)
    rows.sort(
        key=lambda r: (
            *(_natural(r["site"]), r["cluster"], r["adapter_id"] is None, -(r["weight"] or 0.0)),
            *(r["adapter_id"] or "", r["rank_index"] or 0),
        )
    )
    return pa.table(
        {
            "site": pa.array([r["site"] for r in rows], pa.string()),
            "cluster": pa.array([r["cluster"] for r in rows], pa.int32()),
            "adapter_id": pa.array([r["adapter_id"] for r in rows], pa.string()),
            "uri": pa.array([uris.get(r["adapter_id"], [None])[-1] for r in rows], pa.string()),
            "rank_index": pa.array([r["rank_index"] for r in rows], pa.int32()),
            "weight": pa.array([r["weight"] for r in rows], pa.float64()),
            "distance": pa.array([r["distance"] for r in rows], pa.float64()),
        }
    )


def shares(
    catalog: Catalog, merge_ids: Sequence[str], adapter_ids: Sequence[str] | None = None
) -> dict[tuple[str, str], dict[str, Any]]:
    """How much of each merge is each adapter's.

    Args:
        catalog: Where to look.
        merge_ids: The merges.
        adapter_ids: The adapters; None for all.

    Returns:
        msus, clusters and weight by (merge_id, adapter_id), as in `lineage`; nothing of merges whose
        lineage is not recorded.
    """
    if not catalog.exists("msus"):
        return {}
    wanted = pc.field("merge_id").isin(pa.array(merge_ids, pa.string()))
    if adapter_ids is not None:
        wanted &= pc.field("adapter_id").isin(pa.array(adapter_ids, pa.string()))
    columns = ["merge_id", "site", "adapter_id", "rank_index", "cluster", "distance", "weight"]
    msus = catalog.read("msus", columns, wanted)
    pair = ["merge_id", "adapter_id"]
    named = msus.filter(pc.greater_equal(msus["cluster"], 0))
    # Where MSUs are grouped each has a row, and an adapter that is merged twice has it twice.
    grouped = named.filter(pc.is_valid(named["distance"]))
    mixed = named.filter(pc.is_null(named["distance"]))
    mixed = mixed.group_by([*pair, "site", "rank_index"], use_threads=False).aggregate([])
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for name, rows in (
        ("msus", pa.concat_tables([grouped.select(pair), mixed.select(pair)])),
        ("clusters", named.group_by([*pair, "site", "cluster"], use_threads=False).aggregate([])),
    ):
        counts = rows.group_by(pair, use_threads=False).aggregate([([], "count_all")])
        for row in counts.to_pylist():
            share = found.setdefault(_pair(row), {"msus": 0, "clusters": 0, "weight": 0.0})
            share[name] = row["count_all"]
    weights = msus.group_by(pair, use_threads=False).aggregate([("weight", "sum")])
    for row in weights.to_pylist():
        share = found.setdefault(_pair(row), {"msus": 0, "clusters": 0, "weight": 0.0})
        share["weight"] = row["weight_sum"]
    return found


def parts_of_whole(weights: Sequence[float | None]) -> list[float | None]:
    """What part each weight is of their sum; None where none is recorded, or the sum is zero.

    Args:
        weights: In merged ranks; None where none is recorded.
    """
    whole = math.fsum(weight for weight in weights if weight is not None)
    return [weight / whole if weight is not None and whole else None for weight in weights]


def whole_weights(catalog: Catalog, merge_ids: Sequence[str]) -> dict[str, float]:
    """The sum of the weights of each merge's adapters, where they are recorded.

    Args:
        catalog: Where to look.
        merge_ids: The merges.
    """
    if not merge_ids or not catalog.exists("msus"):
        return {}
    wanted = pc.field("merge_id").isin(pa.array(merge_ids, pa.string()))
    rows = catalog.read("msus", ["merge_id", "weight"], wanted)
    sums = rows.group_by("merge_id", use_threads=False).aggregate([("weight", "sum")])
    return {row["merge_id"]: row["weight_sum"] for row in sums.to_pylist() if row["weight_sum"]}


def _pair(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["merge_id"], row["adapter_id"]


def _rests(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each merged rank what its named shares leave of 1, if that is more than rounding."""
    named: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        if row["distance"] is None:
            named.setdefault((row["site"], row["cluster"]), []).append(row["weight"] or 0.0)
    rests = {key: 1 - math.fsum(weights) for key, weights in named.items()}
    nobody = dict.fromkeys(("adapter_id", "rank_index", "distance"))
    return [
        {"site": site, "cluster": cluster, "weight": rest, **nobody}
        for (site, cluster), rest in rests.items()
        if abs(rest) >= _LEAST
    ]


def known_uris(catalog: Catalog) -> dict[str, list[str]]:
    """Where each adapter's content was found, in the order it was recorded."""
    found: dict[str, list[str]] = {}
    if catalog.exists("adapters"):
        for row in catalog.read("adapters", ["adapter_id", "uri", "status"]).to_pylist():
            if row["status"] == "ok":
                found.setdefault(row["adapter_id"], []).append(row["uri"])
    return found


def outputs(
    merges: Sequence[Mapping[str, Any]], uris: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
    """Which merges an adapter is the output of, oldest first: several, if they gave the same bytes.

    A merge recorded before its output's id was is known by the adapters found where its output is.

    Args:
        merges: Rows of `merges`.
        uris: By `known_uris`.

    Returns:
        merge_ids by adapter_id.
    """
    at: dict[str, list[str]] = {}
    for adapter_id, places in uris.items():
        for uri in places:
            at.setdefault(uri, []).append(adapter_id)
    made: dict[str, list[str]] = {}
    for row in sorted(merges, key=lambda r: (r["created_at"], r["merge_id"])):
        own = row["output_adapter_id"]
        for adapter_id in [own] if own else at.get(row["output_uri"], []):
            made.setdefault(adapter_id, []).append(row["merge_id"])
    return made


def _ranks(catalog: Catalog, wanted: pc.Expression) -> dict[str, int]:
    """Merged rank of each site."""
    if not catalog.exists("merge_sites"):
        return {}
    sites = catalog.read("merge_sites", ["site", "rank"], wanted)
    return {row["site"]: row["rank"] for row in sites.to_pylist()}


def _natural(site: str) -> list[tuple[int, str]]:
    """Sort key that puts layer 2 before layer 10."""
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in site.split(".")]
