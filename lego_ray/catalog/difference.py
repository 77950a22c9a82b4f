"""What differs between two states of a catalog: adapters and merges added, changed and gone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from lego_ray.catalog.history import list_merges
from lego_ray.catalog.tables import Catalog
from lego_ray.errors import CatalogNotFound

_COLUMNS = ("change", "what", "name", "differs", "id", "uri")
# Of an adapter, what is compared; its ranks are compared together.
_OF_ADAPTER = ("status", "base_model", "format", "dtype", "license")

Row = Mapping[str, Any]


def difference(before: Catalog, after: Catalog) -> pa.Table:
    """Compares two states of a catalog.

    Args:
        before: The earlier state.
        after: The later one.

    Returns:
        One row for each adapter (by URI) and merge (by merge_id) that was added, changed or is gone:
        change; what, `adapter` or `merge`; name; differs, in words: of a merge that was added, against
        the version before it; id; uri, of a merge its output. Adapters first, then by name.

    Raises:
        CatalogNotFound: If the catalog has no table yet.
        CatalogError: If its log does not go back that far.
    """
    after.required_tables()
    rows = [*_adapters(before, after), *_merges(before, after)]
    schema = pa.schema([(name, pa.string()) for name in _COLUMNS])
    return pa.Table.from_pylist(rows, schema=schema)


def differences_of_merges(before: Row, after: Row) -> list[str]:
    """What differs between two merges, in words: `rank 8 -> 16`, `2 adapters more`.

    Args:
        before: A row of `merges`.
        after: Another.
    """
    said = [
        f"{name} {before[name]} -> {after[name]}"
        for name in ("rank", "method", "seed")
        if before[name] != after[name]
    ]
    old, new = set(before["adapter_ids"]), set(after["adapter_ids"])
    for n, word in ((len(new - old), "more"), (len(old - new), "fewer")):
        if n:
            said.append(f"{n} adapter{'s' * (n > 1)} {word}")
    if not said and before["recipe"] != after["recipe"]:
        said.append("another recipe")
    return said


def _adapters(before: Catalog, after: Catalog) -> Iterator[dict[str, Any]]:
    old, new = _by_uri(before), _by_uri(after)
    for uri in sorted(old.keys() | new.keys()):
        row = new.get(uri) or old[uri]
        if uri not in old:
            change, differs = (
                "added",
                "" if row["status"] == "ok" else f"{row['status']}: {row['reason']}",
            )
        elif uri not in new:
            change, differs = "gone", ""
        else:
            change, differs = "changed", "; ".join(_differences(old[uri], new[uri]))
            if not differs:
                continue
        name = uri.rstrip("/").rsplit("/", 1)[-1]
        yield _row(change, "adapter", name, differs, row["adapter_id"], uri)


def _by_uri(catalog: Catalog) -> dict[str, Row]:
    """What is recorded last of each URI."""
    if not catalog.exists("adapters"):
        return {}
    found: dict[str, Row] = {}
    for row in catalog.read("adapters").to_pylist():
        known = found.get(row["uri"])
        if known is None or row["scanned_at"] >= known["scanned_at"]:
            found[row["uri"]] = row
    return found


def _differences(old: Row, new: Row) -> Iterator[str]:
    if old["status"] != new["status"] == "ok":
        yield "usable now"
        return
    for name in _OF_ADAPTER:
        if old[name] != new[name]:
            yield f"{name.replace('_', ' ')} {old[name] or 'none'} -> {new[name] or 'none'}"
    if new["status"] != "ok":
        if old["reason"] != new["reason"]:
            yield str(new["reason"])
        return
    if _ranks(old) != _ranks(new):
        yield f"rank {_ranks(old)} -> {_ranks(new)}"
    tags, former = dict(new["tags"] or ()), dict(old["tags"] or ())
    for key in sorted(tags.keys() | former.keys()):
        if tags.get(key) != former.get(key):
            yield f"tag {key} {former.get(key, 'none')} -> {tags.get(key, 'none')}"
    if old["adapter_id"] != new["adapter_id"]:
        yield "other weights"


def _ranks(row: Row) -> str:
    low, high = row["rank_min"], row["rank_max"]
    return str(low) if low == high else f"{low}-{high}"


def _merges(before: Catalog, after: Catalog) -> Iterator[dict[str, Any]]:
    old, new = _by_id(before), _by_id(after)
    rows = sorted({**old, **new}.values(), key=lambda r: (r["name"], r["version"], r["merge_id"]))
    for row in rows:
        merge_id = row["merge_id"]
        if merge_id not in old:
            change, differs = "added", _since_the_last(row, new)
        elif merge_id not in new:
            change, differs = "gone", ""
        elif old[merge_id]["version"] != row["version"]:
            change, differs = "changed", f"version {old[merge_id]['version']} -> {row['version']}"
        else:
            continue
        name = f"{row['name']} version {row['version']}"
        yield _row(change, "merge", name, differs, merge_id, row["output_uri"])


def _since_the_last(row: Row, rows: Mapping[str, Row]) -> str:
    """What differs from the version before; or, of the first one, what it is."""
    former = [
        r for r in rows.values() if r["name"] == row["name"] and r["version"] < row["version"]
    ]
    if former:
        return "; ".join(differences_of_merges(max(former, key=lambda r: int(r["version"])), row))
    n = len(row["adapter_ids"])
    return f"rank {row['rank']}, {n} adapter{'s' * (n != 1)}"


def _by_id(catalog: Catalog) -> dict[str, Row]:
    try:
        return {row["merge_id"]: row for row in list_merges(catalog).to_pylist()}
    except CatalogNotFound:
        return {}


def _row(change: str, what: str, name: str, differs: str, key: str, uri: str) -> dict[str, Any]:
    return dict(zip(_COLUMNS, (change, what, name, differs, key, uri), strict=True))
