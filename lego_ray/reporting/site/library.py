"""What a site shows of a catalog, read once: adapters, merges, groups, and what holds what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from lego_ray.catalog.ancestry import known_uris, outputs
from lego_ray.catalog.schema import TABLES
from lego_ray.catalog.tables import Catalog
from lego_ray.catalog.totals import shares_by_merge, site_totals
from lego_ray.reporting.site.pages import key_of, name_of, shown

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Part:
    """What an adapter is of a merge.

    Attributes:
        merge_id: The merge.
        msus: Ranks of it that went in; None if the method does not say where they went.
        share: Of the merged ranks, what is made of these; None as above.
    """

    merge_id: str
    msus: int | None
    share: float | None


@dataclass(frozen=True, slots=True)
class Library:
    """A catalog, read for its site.

    Attributes:
        uri: The catalog.
        adapters: Rows of `adapters`, as a table.
        merges: Rows of `merges` by merge_id, the newest first.
        groups: Rows of `groups`, as a table.
        trials: Rows of `trials` as a table; None in a catalog without that table.
        totals: By merge_id, what `site_totals` says.
        parts: By adapter_id, the merges it was put into, the newest first.
        made: By adapter_id, the merge_ids of the merges whose output it is.
        names: By adapter_id, what `name_of_adapter` says of those whose place or maker is known.
    """

    uri: str
    adapters: pa.Table
    merges: Mapping[str, Row]
    groups: pa.Table
    trials: pa.Table | None
    totals: Mapping[str, Mapping[str, float | None]]
    parts: Mapping[str, Sequence[Part]]
    made: Mapping[str, Sequence[str]]
    names: Mapping[str, str]

    def name_of_adapter(self, adapter_id: str) -> str:
        """The name of an adapter: of its place, of the merge whose output it is, or its first digits."""
        return self.names.get(adapter_id) or shown(adapter_id[:12])

    def label(self, merge_id: str) -> list[Any]:
        """Key, name and version of a merge; name and version are None if it is not recorded here."""
        merge = self.merges.get(merge_id)
        if merge is None:
            return [key_of(merge_id), None, None]
        return [key_of(merge_id), shown(merge["name"]), merge["version"]]


def read_library(catalog: Catalog) -> Library:
    """Reads what a site shows.

    Adapters and groups stay Arrow tables. Rows of `msus` and `merge_sites` are read some merges at a
    time, and only their sums are kept.

    Args:
        catalog: Which catalog.

    Raises:
        CatalogNotFound: If it has no table yet.
        CatalogError: If a table cannot be read.
    """
    catalog.required_tables()
    found = _table(catalog, "merges").to_pylist()
    found.sort(key=lambda row: (-row["created_at"].timestamp(), row["merge_id"]))
    merges = {row["merge_id"]: row for row in found}
    uris = known_uris(catalog)
    made = outputs(list(merges.values()), uris)
    names = {adapter_id: name_of(places[-1]) for adapter_id, places in uris.items()}
    for adapter_id, makers in made.items():
        if adapter_id not in names and makers[-1] in merges:
            names[adapter_id] = shown(merges[makers[-1]]["name"])
    return Library(
        catalog.uri,
        _table(catalog, "adapters"),
        merges,
        _table(catalog, "groups"),
        _table(catalog, "trials") if "trials" in TABLES and catalog.exists("trials") else None,
        site_totals(catalog, list(merges.values())),
        _parts(catalog, merges),
        made,
        names,
    )


def _table(catalog: Catalog, name: str) -> pa.Table:
    return catalog.read(name) if catalog.exists(name) else TABLES[name].schema.empty_table()


def _parts(catalog: Catalog, merges: Mapping[str, Row]) -> dict[str, list[Part]]:
    counted: dict[tuple[str, str], Part] = {}
    for found in shares_by_merge(catalog, list(merges.values())):
        whole: dict[str, float] = {}
        for (merge_id, _), share in found.items():
            whole[merge_id] = whole.get(merge_id, 0.0) + (share["weight"] or 0.0)
        for (merge_id, adapter_id), share in found.items():
            total = whole[merge_id]
            of_it = (share["weight"] or 0.0) / total if total else None
            counted[merge_id, adapter_id] = Part(merge_id, share["msus"], of_it)
    parts: dict[str, list[Part]] = {}
    for merge_id, row in merges.items():
        for adapter_id in dict.fromkeys(row["adapter_ids"]):
            part = counted.get((merge_id, adapter_id)) or Part(merge_id, None, None)
            parts.setdefault(adapter_id, []).append(part)
    return parts
