"""Checks a catalog against itself and against the outputs it records."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import PathLike
from typing import Any

from lego_ray.arguments import checked
from lego_ray.audit.record import CatalogCheck
from lego_ray.audit.repair import THREADS, Manifests
from lego_ray.catalog.damage import damaged_files
from lego_ray.catalog.history import list_merges, output_of
from lego_ray.catalog.opening import open_catalog
from lego_ray.catalog.repair.faults import Fault
from lego_ray.catalog.repair.repairing import diagnose
from lego_ray.catalog.tables import Catalog
from lego_ray.errors import LegoRayError, MalformedAdapter, StorageError, StoreUnavailable
from lego_ray.formats.identity import adapter_id_of
from lego_ray.formats.peft_config import CONFIG_NAME
from lego_ray.output.manifest import weights_of
from lego_ray.output.publish_record import CARD
from lego_ray.storage.base import Store


@checked
def check_catalog(catalog: str | PathLike[str], *, deep: bool = False) -> CatalogCheck:
    """Checks that a catalog's rows are whole, each there once, and the outputs it records in the store.

    Reads the tables, and of each output the manifest and the sizes of its files; all their bytes if
    `deep`, those of the tables' own files first: if any of these is damaged, each is named and nothing
    else is checked. Changes nothing.

    Args:
        catalog: Which catalog.
        deep: Whether to read every output whole to compare hashes, and to compare every recorded value
            with the history of its table and with what must be true of it.

    Returns:
        What was found; see `CatalogCheck`, which is read like a dictionary too.

    Raises:
        CatalogNotFound: If there is no catalog.
        StoreUnavailable: If a store could not be reached.
    """
    opened = open_catalog(catalog)
    damaged = [
        _problem({}, "", f"{opened.table_uri(each.table)}/{each.file}", each.problem)
        for each in (damaged_files(opened) if deep else ())
    ]
    if damaged:  # what such files say of the merges cannot be held against anything
        return _record(opened, damaged, deep=deep)
    # Of a merge that has several rows, which is a fault of its own, any will do to look at its output.
    has_merges = opened.exists("merges") or not opened.tables()  # or only scans were recorded
    merges = list_merges(opened).to_pylist() if has_merges else []
    rows = {row["merge_id"]: row for row in merges}
    manifests = Manifests()
    manifests.fetch(rows.values())
    diagnoses = diagnose(opened, manifests, deep=deep)
    problems = [
        _problem(rows, fault.merge_id, opened.table_uri(fault.table), fault.problem, fault)
        for each in diagnoses
        for fault in each.faults
    ]

    def check(row: dict[str, Any]) -> list[dict[str, Any]]:
        return [
            _problem(rows, row["merge_id"], where, problem)
            for where, problem in _check_output(row, manifests, deep)
        ]

    with ThreadPoolExecutor(max_workers=THREADS) as threads:
        problems += [each for found in threads.map(check, rows.values()) for each in found]
    unpublished = len(frozenset().union(*(each.unpublished for each in diagnoses)))
    return _record(opened, problems, len(rows), unpublished, deep=deep)


def _record(
    catalog: Catalog,
    problems: Sequence[Mapping[str, Any]],
    merges: int = 0,
    unpublished: int = 0,
    *,
    deep: bool,
) -> CatalogCheck:
    return CatalogCheck(
        catalog=catalog.uri,
        ok=not problems,
        merges=merges,
        deep=deep,
        problems=tuple(problems),
        unpublished=unpublished,
    )


def _problem(
    rows: Mapping[str, Mapping[str, Any]],
    merge_id: str,
    where: str,
    problem: str,
    fault: Fault | None = None,
) -> dict[str, Any]:
    row = rows.get(merge_id, {})
    return {
        "merge_id": merge_id or None,
        "name": row.get("name"),
        "version": row.get("version"),
        "where": where,
        "problem": problem,
        "table": fault.table if fault else None,
        "key": fault.key if fault else None,
        "repair": (fault.repair or None) if fault else None,
    }


_Found = Iterator[tuple[str, str]]


def _check_output(row: Mapping[str, Any], manifests: Manifests, deep: bool) -> _Found:
    uri = row["output_uri"]
    try:
        store = output_of(row).open()
        manifest = manifests.of(row)
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
            wrong = name != CARD and size != expected["bytes"]
            return f"it has {size} bytes, the manifest says {expected['bytes']}" if wrong else ""
        data = store.read(name)
    except StoreUnavailable:
        raise
    except StorageError as error:
        return _said(error)
    found = hashlib.sha256(data).hexdigest()
    if found != expected["sha256"] and name != CARD:
        return f"its sha256 is {found}, the manifest says {expected['sha256']}"
    read[name] = data
    return ""


def _said(error: LegoRayError) -> str:
    return f"{type(error).__name__}: {error.problem}"
