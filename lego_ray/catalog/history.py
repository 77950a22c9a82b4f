"""What was merged: the list, and one merge."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lego_ray.catalog.groups import group_of_merge
from lego_ray.catalog.ids import ids_that_begin, listed
from lego_ray.catalog.schema import TABLES
from lego_ray.catalog.tables import Catalog
from lego_ray.errors import CatalogNotFound, InvalidOption, NotRecordedYet
from lego_ray.records import rows_table, table
from lego_ray.storage.places import Place
from lego_ray.storage.uri import parse_uri


def output_of(merge: Mapping[str, Any]) -> Place:
    """Where a merge is, by its row.

    Args:
        merge: Its row of `merges`.
    """
    return parse_uri(merge["output_uri"])


@dataclass(frozen=True, slots=True)
class MergeDetail:
    """One merge.

    Attributes:
        merge: Its row of `merges`; maps as dicts.
        sites: Its rows of `merge_sites`, by site.
        groups: Its adapters' rows of `groups`; none if it is of no group.
    """

    merge: dict[str, Any]
    sites: pa.Table
    groups: pa.Table

    def summary(self) -> dict[str, float | int | None]:
        """Sums the sites up: counts and inertia added, errors as mean and worst over sites."""
        sites = self.sites
        return {
            "sites": sites.num_rows,
            "msus": pc.sum(sites["n_msus"], min_count=0).as_py(),
            "inertia": pc.sum(sites["inertia"]).as_py(),
            "relative_error_mean": pc.mean(sites["relative_error"]).as_py(),
            "relative_error_max": pc.max(sites["relative_error"]).as_py(),
            "norm_ratio_mean": pc.mean(sites["norm_ratio"]).as_py(),
        }

    def _repr_html_(self) -> str:
        """The merge and its first sites, for notebooks."""
        caption = f"{self.merge['name']} version {self.merge['version']}"
        shown = {**self.merge, **self.summary()}
        shown = {k: len(v) if isinstance(v, list | dict) else v for k, v in shown.items()}
        return table(caption, shown) + rows_table(self.sites.drop_columns(["merge_id"]).to_pylist())


def list_merges(catalog: Catalog) -> pa.Table:
    """Lists the merges, newest first; none at a moment before the first.

    Raises:
        CatalogNotFound: If nothing was merged into this catalog yet.
    """
    try:
        rows = catalog.read("merges")
    except CatalogNotFound:
        if not catalog.came_later("merges"):
            raise
        return TABLES["merges"].schema.empty_table()
    return rows.sort_by([("created_at", "descending"), ("merge_id", "ascending")])


def show(catalog: Catalog, merge: str, version: int | None = None) -> MergeDetail:
    """Finds one merge.

    Args:
        catalog: Where to look.
        merge: Its name, its merge_id, or the first digits of it (six or more, if they fit one).
        version: Which of that name; the highest if not given.

    Raises:
        CatalogNotFound: If nothing was merged into this catalog yet.
        NotRecordedYet: If the merge was recorded after the moment that the catalog is read as of.
        InvalidOption: If no merge fits, or several do.
    """
    row = merge_of(catalog, list_merges(catalog).to_pylist(), merge, version)
    row["versions"] = dict(row["versions"])
    groups = group_of_merge(catalog, row["merge_id"])
    if not catalog.exists("merge_sites"):
        return MergeDetail(row, TABLES["merge_sites"].schema.empty_table(), groups)
    sites = catalog.read("merge_sites", where=pc.field("merge_id") == row["merge_id"])
    return MergeDetail(row, sites.sort_by("site"), groups)


def merge_of(
    catalog: Catalog, rows: Sequence[dict[str, Any]], merge: str, version: int | None = None
) -> dict[str, Any]:
    """Finds one merge among the rows of a catalog; see `show`.

    Args:
        catalog: The catalog, perhaps as of a moment.
        rows: Its rows of `merges`.
        merge: As for `show`.
        version: As for `show`.

    Raises:
        NotRecordedYet: If the merge was recorded after the moment.
        InvalidOption: If no merge fits, or several do.
    """
    try:
        return find_merge(rows, merge, version)
    except InvalidOption:
        later = None if catalog.at is None else _recorded_later(catalog, rows, merge, version)
        if later is None:
            raise
        raise NotRecordedYet(
            merge,
            f"it was not in the catalog at {catalog.at:%Y-%m-%d %H:%M:%S} UTC; version "
            f"{later['version']} of {later['name']} was recorded at "
            f"{later['created_at']:%Y-%m-%d %H:%M:%S} UTC",
        ) from None


def _recorded_later(
    catalog: Catalog, rows: Sequence[dict[str, Any]], merge: str, version: int | None
) -> dict[str, Any] | None:
    """The first row that fits among those that were recorded since; None if none does."""
    known = {row["merge_id"] for row in rows}
    now: list[dict[str, Any]] = list_merges(catalog.present).to_pylist()
    later = [row for row in now if row["merge_id"] not in known]
    named = [r for r in later if r["name"] == merge and version in (None, r["version"])]
    if named:
        return min(named, key=lambda row: row["created_at"])
    try:
        return find_merge(later, merge)
    except InvalidOption:
        return None


def find_merge(
    rows: Sequence[dict[str, Any]], merge: str, version: int | None = None
) -> dict[str, Any]:
    """Finds one merge among rows of `merges`; see `show`.

    Raises:
        InvalidOption: If no merge fits, or several do.
    """
    named = [r for r in rows if r["name"] == merge]
    if named and version is None:
        return max(named, key=lambda r: int(r["version"]))
    found = [r for r in named if r["version"] == version]
    if not named and (fitting := ids_that_begin(merge, (r["merge_id"] for r in rows))):
        found = [r for r in rows if r["merge_id"] in fitting]
    if len(found) == 1:
        return found[0]
    if found:
        found = sorted(found, key=lambda r: str(r["merge_id"]))
        versions = (f"{r['name']} version {r['version']}" for r in found)
        said = listed((r["merge_id"] for r in found), versions)
        raise InvalidOption(
            merge, f"{len(found)} merges fit: {said}", "Give more digits of the merge_id."
        )
    if named:
        have = ", ".join(str(v) for v in sorted(r["version"] for r in named))
        raise InvalidOption(merge, f"version {version} does not exist", f"It has {have}.")
    names = sorted({r["name"] for r in rows})
    near = difflib.get_close_matches(merge, names, 1)
    hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(names[:10]) or 'none'}."
    raise InvalidOption(merge, "no merge has this name or merge_id", hint)


def parents(catalog: Catalog, merge: str, version: int | None = None) -> list[dict[str, Any]]:
    """The merges that a merge is a later version of, the last one first.

    Args:
        catalog: Where to look.
        merge: As for `show`.
        version: As for `show`.

    Returns:
        `merge_id`, `name`, `version` and `output_uri` of each; of one that was never recorded here,
        which is where the line ends, only the first.

    Raises:
        CatalogNotFound: If nothing was merged into this catalog yet.
        InvalidOption: If no merge fits, or several do.
    """
    rows = list_merges(catalog).to_pylist()
    by_id = {row["merge_id"]: row for row in rows}
    found: list[dict[str, Any]] = []
    parent = merge_of(catalog, rows, merge, version)["parent_id"]
    while parent is not None and parent not in {each["merge_id"] for each in found}:
        row = by_id.get(parent, {})
        found.append(
            {"merge_id": parent, **{k: row.get(k) for k in ("name", "version", "output_uri")}}
        )
        parent = row.get("parent_id")
    return found
