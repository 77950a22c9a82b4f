"""What an adapter went into: the merges that hold it, and the merges that hold those."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from lego_ray.catalog.ancestry import known_uris, outputs, shares, whole_weights
from lego_ray.catalog.history import list_merges
from lego_ray.catalog.ids import ids_that_begin, listed
from lego_ray.catalog.tables import Catalog
from lego_ray.errors import InvalidOption
from lego_ray.storage.uri import normalize_uri

_COLUMNS = {
    "depth": pa.int64(),
    "merge_id": pa.string(),
    "name": pa.string(),
    "version": pa.int64(),
    "adapter_id": pa.string(),
    "through": pa.string(),
    "msus": pa.int64(),
    "clusters": pa.int64(),
    "weight": pa.float64(),
    "share": pa.float64(),
    "output_uri": pa.string(),
    "created_at": pa.timestamp("us", tz="UTC"),
}


def merges_with(catalog: Catalog, adapter: str) -> pa.Table:
    """Says which merges hold an adapter, directly or through a merged adapter that they were made from.

    Args:
        catalog: Where to look.
        adapter: Its adapter_id, or the first digits of it (six or more); its URI, which means all that
            was ever found there; or the last part of its URI, if only one has it.

    Returns:
        One row for each adapter a merge holds that is this one or has it in it, nearest first: depth (1
        if the merge holds the adapter itself); merge_id, name and version of the merge; adapter_id of
        what it holds; through, the merge whose output that is (null at depth 1); msus, clusters,
        weight and share of it as in `lineage`; output_uri and created_at of the merge. No rows if no
        merge holds it.

    Raises:
        CatalogNotFound: If nothing was merged into this catalog yet.
        InvalidOption: If the catalog knows no such adapter, or several.
    """
    merges = list_merges(catalog).to_pylist()
    uris = known_uris(catalog)
    made = outputs(merges, uris)
    rows: list[dict[str, Any]] = []
    # What is looked for at this depth, and the merge it is the output of.
    try:
        wanted: dict[str, str | None] = dict.fromkeys(_resolve(adapter, merges, uris, made))
    except InvalidOption:
        if not _came_later(catalog, adapter):
            raise
        wanted = {}
    seen: set[str] = set(wanted)
    depth = 0
    while wanted:
        depth += 1
        holding = [m for m in merges if not wanted.keys().isdisjoint(m["adapter_ids"])]
        ids = [m["merge_id"] for m in holding]
        part, wholes = shares(catalog, ids, list(wanted)), whole_weights(catalog, ids)
        for merge in sorted(holding, key=lambda m: (m["created_at"], m["merge_id"])):
            for held in sorted(wanted.keys() & set(merge["adapter_ids"])):
                none = {"msus": 0, "clusters": 0, "weight": 0.0}
                share = part.get((merge["merge_id"], held), none)
                whole = wholes.get(merge["merge_id"])
                of_it = (share["weight"] or 0.0) / whole if whole else None
                own = {
                    "share": of_it,
                    "depth": depth,
                    "adapter_id": held,
                    "through": wanted[held],
                    **share,
                }
                rows.append({name: own.get(name, merge.get(name)) for name in _COLUMNS})
        reached = {m["merge_id"] for m in holding}
        wanted = {
            adapter_id: next(m for m in makers if m in reached)
            for adapter_id, makers in made.items()
            if adapter_id not in seen and not reached.isdisjoint(makers)
        }
        seen |= set(wanted)
    return pa.Table.from_pylist(rows, schema=pa.schema(list(_COLUMNS.items())))


def _came_later(catalog: Catalog, adapter: str) -> bool:
    """Whether a catalog that is read as of a moment knows an adapter now."""
    if catalog.at is None:
        return False
    now = list_merges(catalog.present).to_pylist()
    uris = known_uris(catalog.present)
    try:
        return bool(_resolve(adapter, now, uris, outputs(now, uris)))
    except InvalidOption:
        return False


def _resolve(
    adapter: str,
    merges: Sequence[Mapping[str, Any]],
    uris: Mapping[str, Sequence[str]],
    made: Mapping[str, Sequence[str]],
) -> list[str]:
    """The adapter_ids meant."""
    places: dict[str, set[str]] = {}
    for adapter_id, found in uris.items():
        for uri in found:
            places.setdefault(uri, set()).add(adapter_id)
    for merge in merges:
        if merge["output_adapter_id"]:
            places.setdefault(merge["output_uri"], set()).add(merge["output_adapter_id"])
    if not adapter:
        raise InvalidOption("--adapter", "it is empty")
    whole = normalize_uri(adapter)
    # A hub repository is recorded with the commit it meant.
    here = [uri for uri in places if uri == whole or uri.startswith(f"{whole}@")]
    if here:
        return sorted(set().union(*(places[uri] for uri in here)))
    ids = {i for merge in merges for i in merge["adapter_ids"]} | set(uris) | set(made)
    if fitting := ids_that_begin(adapter, ids):
        if len(fitting) == 1:
            return fitting
        said = listed(fitting, ((uris.get(i) or ["not scanned"])[-1] for i in fitting))
        raise InvalidOption(
            "--adapter",
            f"{len(fitting)} adapters fit {adapter}: {said}",
            "Give more digits of the adapter_id.",
        )
    named = sorted(uri for uri in places if uri.rsplit("/", 1)[-1].partition("@")[0] == adapter)
    if len(named) > 1:
        raise InvalidOption(
            "--adapter", f"{adapter} fits {', '.join(named)}", "Give the whole URI."
        )
    if named:
        return sorted(places[named[0]])
    names = sorted({uri.rsplit("/", 1)[-1] for uri in places})
    near = difflib.get_close_matches(adapter.rsplit("/", 1)[-1], names, 1)
    raise InvalidOption(
        "--adapter",
        f"the catalog knows no adapter {adapter}",
        f"Did you mean {near[0]}?" if near else "Give its adapter_id or its URI.",
    )
