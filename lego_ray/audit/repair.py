"""Repairs a catalog, with what the outputs in the store say where its rows cannot decide."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import datetime
from os import PathLike
from typing import Any

from lego_ray.arguments import checked
from lego_ray.audit.record import CatalogRepair
from lego_ray.catalog.history import output_of
from lego_ray.catalog.opening import check_before_writing, open_catalog
from lego_ray.catalog.repair.faults import Diagnosis, Fault
from lego_ray.catalog.repair.repairing import diagnose, repair
from lego_ray.errors import MalformedAdapter, StorageError, StoreUnavailable
from lego_ray.output.manifest import parse_manifest, read_bytes, weights_of

# Small reads that wait for a store.
THREADS = 16


@checked
def repair_catalog(catalog: str | PathLike[str], *, apply: bool = False) -> CatalogRepair:
    """Puts a catalog right whose rows are doubled, wrong or lost; a dry run unless asked.

    Of rows that are alike one is kept. Of those that differ: an adapter's that was scanned last; a
    merge's with the highest version, or that its output agrees with; of details those that fit the
    merge, or were written first. Merges of one name and version get versions of their own, in the order
    they were made in. What is lost is taken from the table's history, as long as no vacuum removed it,
    and rows of adapters from the manifests of merges.

    Each table is changed in one commit, computed from one state of it, and left alone if nothing is
    wrong with it. The former state stays in its history.

    Args:
        catalog: Which catalog.
        apply: Whether to change anything; without it the answer says what would be done.

    Returns:
        What was done; see `CatalogRepair`, which is read like a dictionary too.

    Raises:
        CatalogNotFound: If the catalog has no table yet.
        CatalogVersionMismatch: If a table is of another schema version.
        CatalogError: If a table cannot be read, or other writers were always faster.
        StorageError: If a store could not be reached or refused access.
    """
    opened = open_catalog(catalog)
    opened.required_tables()
    if apply:
        check_before_writing(opened)
        found = repair(opened, Manifests())
    else:
        found = diagnose(opened, Manifests())
    faults = [fault for each in found for fault in each.faults]
    left = [fault for fault in faults if not fault.repair]
    return CatalogRepair(
        catalog=opened.uri,
        applied=apply,
        ok=not left if apply else not faults,
        tables=tuple(_rows(each) for each in found if each.change is not None),
        repairs=tuple(_told(fault) for fault in faults if fault.repair),
        left=tuple(_told(fault, without="repair") for fault in left),
    )


def _rows(found: Diagnosis) -> dict[str, Any]:
    return {name: getattr(found, name) for name in ("table", "removed", "added", "changed")}


def _told(fault: Fault, without: str = "") -> dict[str, Any]:
    about = {**asdict(fault), "merge_id": fault.merge_id or None}
    return {name: value for name, value in about.items() if name != without}


class Manifests:
    """What the manifests of outputs say; each is read once."""

    def __init__(self) -> None:
        self._read: dict[str, dict[str, Any] | StorageError | MalformedAdapter] = {}

    def fetch(self, merges: Iterable[Mapping[str, Any]]) -> None:
        """Reads the manifests of rows of `merges` beside each other.

        Raises:
            StoreUnavailable: If a store could not be reached.
        """
        with ThreadPoolExecutor(max_workers=THREADS) as threads:
            for _ in threads.map(self._manifest, merges):
                pass

    def of(self, merge: Mapping[str, Any]) -> dict[str, Any]:
        """The manifest of the output that a row of `merges` names.

        Raises:
            StorageError: If it cannot be read.
            MalformedAdapter: If it is not a manifest.
        """
        uri = merge["output_uri"]
        if uri not in self._read:
            try:
                self._read[uri] = parse_manifest(read_bytes(output_of(merge).open()), uri)
            except StoreUnavailable:
                raise
            except (StorageError, MalformedAdapter) as error:
                self._read[uri] = error
        found = self._read[uri]
        if isinstance(found, dict):
            return found
        raise found

    def agrees(self, merge: Mapping[str, Any]) -> bool | None:
        """Whether the output that a row of `merges` names is that merge; None if it cannot be read."""
        manifest = self._manifest(merge)
        if manifest is None:
            return None
        weights = manifest["files"].get(weights_of(manifest), {}).get("sha256")
        sources = sorted(source["adapter_id"] for source in manifest["sources"])
        return bool(
            manifest["merge_id"] == merge["merge_id"]
            and manifest["name"] == merge["name"]
            and weights == merge["content_hash"]
            and sources == sorted(merge["adapter_ids"])
            and merge.get("n_sites") in (None, manifest["sites"])
        )

    def row(self, merge: Mapping[str, Any]) -> dict[str, Any]:
        """Columns of `merges` that a merge's output has too; none if it is not readable or another.

        Those that say which files and which sources the output has are left out: where they differ, the
        output may be wrong.
        """
        from lego_ray.planning.recipe import canonical_json  # it loads the methods

        manifest = self._manifest(merge)
        if manifest is None or manifest["merge_id"] != merge["merge_id"]:
            return {}
        recipe = manifest["recipe"]
        found = {
            "name": manifest["name"],
            "parent_id": recipe.get("parent") or None,
            "method": recipe["method"],
            "recipe": canonical_json(recipe),
            "seed": recipe.get("seed"),
            "licenses": manifest.get("licenses"),
            "license_conflicts": manifest.get("license_conflicts"),
            "drift": manifest.get("drift"),
        }
        # One that was adopted has the rank of its files, which may be less.
        if recipe.get("rank") and merge["seconds"] > 0:
            found["rank"] = recipe["rank"]
        # Releases before these were recorded have none.
        return {n: v for n, v in found.items() if n == "parent_id" or v is not None}

    def adapters(self, merge: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Rows of `adapters` for what a merge's output says it was made of; none if not readable."""
        manifest = self._manifest(merge)
        if manifest is None or manifest["merge_id"] != merge["merge_id"]:
            return []
        return adapters_of(manifest, merge["created_at"])

    def _manifest(self, merge: Mapping[str, Any]) -> dict[str, Any] | None:
        try:
            return self.of(merge)
        except StoreUnavailable:
            raise
        except (StorageError, MalformedAdapter):
            return None


def adapters_of(manifest: Mapping[str, Any], at: datetime) -> list[dict[str, Any]]:
    """Rows of `adapters` for what a manifest says that a merge was made of.

    Args:
        manifest: The manifest.
        at: When the adapters were seen.
    """
    return [
        {
            "adapter_id": source["adapter_id"],
            "uri": source["uri"],
            "revision": source.get("revision") or None,
            "base_model": manifest.get("base_model"),
            "rank_min": source.get("rank_min"),
            "rank_max": source.get("rank_max"),
            "license": source.get("license"),
            "status": "ok",
            "scanned_at": at,
        }
        for source in manifest["sources"]
    ]
