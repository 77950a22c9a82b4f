"""Checks a catalog against itself and against the outputs it records."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from lego_ray.arguments import checked
from lego_ray.catalog.failures import read_through
from lego_ray.catalog.history import list_merges
from lego_ray.catalog.opening import open_catalog
from lego_ray.catalog.rows import check_whole
from lego_ray.catalog.tables import Catalog
from lego_ray.errors import LegoRayError, MalformedAdapter, StorageError, StoreUnavailable
from lego_ray.execution.publishing.manifest import (
    parse_manifest,
    read_bytes,
    weights_of,
)
from lego_ray.formats.identity import adapter_id_of
from lego_ray.formats.peft_config import CONFIG_NAME
from lego_ray.storage.base import Store
from lego_ray.storage.open import open_store

# Small reads that wait for a store.
THREADS = 16


@dataclass(slots=True)
class _Details:
    """What the tables of details have of one merge.

    Attributes:
        pools: Size of each site's pool, by `merge_sites`.
        ranks: Merged rank of each site.
        sites: Rows in `merge_sites`.
        msus: Rows in `msus`, by site.
        highest: The highest cluster at each site.
        adapters: Adapters that `msus` names.
    """

    pools: dict[str, int] = field(default_factory=dict)
    ranks: dict[str, int] = field(default_factory=dict)
    sites: int = 0
    msus: Counter[str] = field(default_factory=Counter)
    highest: dict[str, int] = field(default_factory=dict)
    adapters: set[str] = field(default_factory=set)


@checked
def check_catalog(catalog: str | PathLike[str], *, deep: bool = False) -> dict[str, Any]:
    """Checks that each merge a catalog records is whole: its rows, and its output in the store.

    Reads the tables, and of each output the manifest and the sizes of its files; all their bytes if
    `deep`. Changes nothing.

    Args:
        catalog: Which catalog.
        deep: Whether to read every output whole and compare hashes.

    Returns:
        `catalog`, `ok`, `merges` (how many were checked), `deep`, `problems` (a list of `{merge_id,
        name, version, where, problem}`), and `unpublished`: how many merges have details in the tables
        and no row, which is no problem: they are of runs that were cut short, or publish now.

    Raises:
        CatalogNotFound: If nothing was merged into this catalog yet.
        StoreUnavailable: If a store could not be reached.
    """
    opened = open_catalog(catalog)
    rows = list_merges(opened).to_pylist()
    details = _read_details(opened)
    groups = _read_groups(opened)
    known = set()
    if opened.exists("adapters"):
        known = set(opened.read("adapters", ["adapter_id"])["adapter_id"].to_pylist())
    ids = Counter(row["merge_id"] for row in rows)
    names = Counter((row["name"], row["version"]) for row in rows)

    def check(row: dict[str, Any]) -> list[dict[str, Any]]:
        about = {key: row[key] for key in ("merge_id", "name", "version")}
        found = [
            *_check_row(opened, row, ids, names, known),
            *_check_details(opened, row, details.get(row["merge_id"], _Details())),
            *_check_groups(opened, row, groups.get(row["merge_id"], {})),
            *_check_output(row, deep),
        ]
        return [{**about, "where": where, "problem": problem} for where, problem in found]

    with ThreadPoolExecutor(max_workers=THREADS) as threads:
        problems = [problem for found in threads.map(check, rows) for problem in found]
    return {
        "catalog": opened.uri,
        "ok": not problems,
        "merges": len(rows),
        "deep": deep,
        "problems": problems,
        "unpublished": len(details.keys() - ids.keys()),
    }


_Found = Iterator[tuple[str, str]]


def _check_row(
    catalog: Catalog,
    row: Mapping[str, Any],
    ids: Mapping[str, int],
    names: Mapping[tuple[str, int], int],
    known: set[str],
) -> _Found:
    uri = catalog.table_uri("merges")
    if ids[row["merge_id"]] > 1:
        yield uri, f"the merge has {ids[row['merge_id']]} rows"
    if names[row["name"], row["version"]] > 1:
        yield uri, f"{names[row['name'], row['version']]} merges are version {row['version']} of it"
    missing = [each for each in dict.fromkeys(row["adapter_ids"]) if each not in known]
    if missing:
        yield (
            catalog.table_uri("adapters"),
            f"{len(missing)} of its adapters have no row, {missing[0][:12]} first",
        )


def _check_details(catalog: Catalog, row: Mapping[str, Any], found: _Details) -> _Found:
    uri = catalog.table_uri("merge_sites")
    expected = found.sites if row["n_sites"] is None else row["n_sites"]
    if found.sites != expected:
        yield uri, f"it has {found.sites} rows, {expected} were recorded"
    if len(found.pools) != found.sites:
        yield uri, f"its {found.sites} rows are of {len(found.pools)} sites"
    uri = catalog.table_uri("msus")
    total = sum(found.msus.values())
    whole = sum(found.pools.values())
    # Methods that mix MSUs have none. What came before the number was recorded has all or none.
    expected = (whole if total else 0) if row["n_msus"] is None else row["n_msus"]
    if total != expected:
        yield uri, f"it has {total} rows, {expected} were recorded"
    if not total:
        return
    for site in sorted(found.pools.keys() | found.msus.keys()):
        if found.msus[site] != found.pools.get(site, 0):
            yield (
                uri,
                f"{site} has {found.msus[site]} rows, its pool {found.pools.get(site, 0)} MSUs",
            )
        elif found.highest.get(site, 0) >= found.ranks[site]:
            yield (
                uri,
                f"{site} has a cluster {found.highest[site]}, its rank is {found.ranks[site]}",
            )
    strange = sorted(found.adapters - set(row["adapter_ids"]))
    if strange:
        yield (
            uri,
            f"it names {len(strange)} adapters that the merge has not, {strange[0][:12]} first",
        )


def _check_groups(catalog: Catalog, row: Mapping[str, Any], found: dict[str, list[str]]) -> _Found:
    """Each grouping that a merge is of has put together what was merged."""
    for grouping, adapters in sorted(found.items()):
        if sorted(adapters) != sorted(row["adapter_ids"]):
            yield (
                catalog.table_uri("groups"),
                f"grouping {grouping[:12]} has {len(adapters)} adapters in its group, and they are not "
                f"the {len(row['adapter_ids'])} that were merged",
            )


def _check_output(row: Mapping[str, Any], deep: bool) -> _Found:
    uri = row["output_uri"]
    try:
        store = open_store(uri)
        manifest = parse_manifest(read_bytes(store), uri)
    except StoreUnavailable:
        raise
    except (StorageError, MalformedAdapter) as error:
        yield uri, _said(error)
        return
    if manifest["merge_id"] != row["merge_id"]:
        yield uri, f"it holds another merge, {manifest['merge_id'][:12]}"
        return
    weights = manifest["files"].get(weights_of(manifest), {}).get("sha256")
    if weights != row["content_hash"]:
        yield uri, f"its manifest says {weights} of the weights, the catalog {row['content_hash']}"
    if sorted(s["adapter_id"] for s in manifest["sources"]) != sorted(row["adapter_ids"]):
        yield uri, "its manifest names other sources than the catalog"
    if row["n_sites"] not in (None, manifest.get("sites")):
        yield uri, f"its manifest says {manifest.get('sites')} sites, the catalog {row['n_sites']}"
    files: dict[str, bytes] = {}
    for name, expected in sorted(manifest["files"].items()):
        problem = _check_file(store, name, expected, files if deep else None)
        if problem:
            yield f"{uri}/{name}", problem
    own = row["output_adapter_id"]
    if own and len(files) == len(manifest["files"]) and weights_of(manifest) in files:
        found = adapter_id_of(files.get(CONFIG_NAME), files[weights_of(manifest)])
        if found != own:
            yield uri, f"its adapter_id is {found[:12]}, the catalog says {own[:12]}"


def _check_file(
    store: Store, name: str, expected: Mapping[str, Any], read: dict[str, bytes] | None
) -> str:
    """What is wrong with one file, or nothing; its bytes are put with those read, if any are."""
    try:
        if read is None:
            size = store.stat(name).size
            wrong = size != expected["bytes"]
            return f"it has {size} bytes, the manifest says {expected['bytes']}" if wrong else ""
        data = store.read(name)
    except StoreUnavailable:
        raise
    except StorageError as error:
        return _said(error)
    found = hashlib.sha256(data).hexdigest()
    if found != expected["sha256"]:
        return f"its sha256 is {found}, the manifest says {expected['sha256']}"
    read[name] = data
    return ""


def _read_details(catalog: Catalog) -> dict[str, _Details]:
    """What the tables of details have, by merge."""
    found: dict[str, _Details] = {}
    if catalog.exists("msus"):
        msus = catalog.whole("msus")
        found = read_through(catalog.table_uri("msus"), lambda: _read_msus(msus))
    if catalog.exists("merge_sites"):
        columns = ["merge_id", "site", "n_msus", "rank"]
        sites = catalog.whole("merge_sites")
        rows = read_through(
            catalog.table_uri("merge_sites"), lambda: sites.to_table(columns=columns)
        )
        check_whole("merge_sites", rows)
        for row in rows.to_pylist():
            details = found.setdefault(row["merge_id"], _Details())
            details.sites += 1
            details.pools[row["site"]] = row["n_msus"]
            details.ranks[row["site"]] = row["rank"]
    return found


def _read_msus(msus: ds.Dataset) -> dict[str, _Details]:
    """What `msus` has of it; batch by batch, for it may be large."""
    found: dict[str, _Details] = {}
    keys = ["merge_id", "site", "adapter_id"]
    for batch in msus.to_batches(columns=[*keys, "cluster"]):
        part = pa.Table.from_batches([batch])
        check_whole("msus", part)
        groups = part.group_by(keys, use_threads=False)
        for row in groups.aggregate([([], "count_all"), ("cluster", "max")]).to_pylist():
            details = found.setdefault(row["merge_id"], _Details())
            site = row["site"]
            details.msus[site] += row["count_all"]
            details.highest[site] = max(details.highest.get(site, 0), row["cluster_max"])
            details.adapters.add(row["adapter_id"])
    return found


def _read_groups(catalog: Catalog) -> dict[str, dict[str, list[str]]]:
    """The adapters put together for each merge, by merge and grouping."""
    found: dict[str, dict[str, list[str]]] = {}
    if catalog.exists("groups"):
        names = ["merge_id", "grouping_id", "adapter_id"]
        for row in catalog.read("groups", names).to_pylist():
            mine = found.setdefault(row["merge_id"], {}).setdefault(row["grouping_id"], [])
            mine.append(row["adapter_id"])
    return found


def _said(error: LegoRayError) -> str:
    return f"{type(error).__name__}: {error.problem}"
