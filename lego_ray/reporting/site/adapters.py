"""Pages of adapters: the list that is searched, and the details of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lego_ray.reporting.site.library import Library, Part
from lego_ray.reporting.site.pages import (
    Detail,
    File,
    details,
    key_of,
    lists,
    name_of,
    pairs,
    shown,
    text,
)

# Values of a filter that are offered; the search finds all.
OFFERED = 200
# Columns that the page of an adapter shows of each of its rows, in this order.
_SHOWN = (
    *("uri", "status", "reason", "base_model", "format", "rank_min", "rank_max", "n_sites"),
    *("n_params", "n_bytes", "dtype", "license", "revision", "scanned_at", "content_sha256"),
)


@dataclass(frozen=True, slots=True)
class Facets:
    """What adapters can be filtered by.

    Attributes:
        counts: By filter, its values and how many adapters have each, the most common first, cut to
            `OFFERED`; ranks by size.
        more: By filter, how many values were cut.
    """

    counts: Mapping[str, Sequence[tuple[Any, int]]]
    more: Mapping[str, int]

    def as_json(self) -> dict[str, Any]:
        """As the site has it."""
        return {
            "counts": {
                name: [[shown(v), n] for v, n in found] for name, found in self.counts.items()
            },
            "more": dict(self.more),
        }


def adapter_key(row: Mapping[str, Any]) -> str:
    """The key of the adapter that a row of `adapters` is of: of its content, or else of its place."""
    return key_of(row["adapter_id"] or row["uri"])


def adapter_list(library: Library) -> tuple[Iterator[File], Facets]:
    """The list of adapters by name, and what it can be filtered by.

    A row is: key, name, uri, base_model, rank_min, rank_max, license, status, reason, tags, and in how
    many merges it is.

    Args:
        library: The catalog.
    """
    counts: dict[str, Counter[Any]] = {
        name: Counter() for name in ("base", "license", "status", "tag")
    }
    spans: Counter[tuple[int, int]] = Counter()
    rows: list[tuple[tuple[str, str, str], str]] = []
    for row in _rows(library):
        name, tags = name_of(row["uri"]), pairs(row["tags"])
        counts["base"][row["base_model"] or ""] += 1
        counts["license"][row["license"] or ""] += 1
        counts["status"][row["status"]] += 1
        counts["tag"].update({f"{key}: {value}" for key, value in tags})
        if row["rank_min"] is not None and row["rank_max"] is not None:
            spans[row["rank_min"], row["rank_max"]] += 1
        told = [
            *(adapter_key(row), name, shown(row["uri"]), shown(row["base_model"])),
            *(row["rank_min"], row["rank_max"], shown(row["license"]), row["status"]),
            *(shown(row["reason"]), tags, len(library.parts.get(row["adapter_id"] or "", ()))),
        ]
        rows.append(((name.casefold(), row["uri"], row["adapter_id"] or ""), text(told)))
    rows.sort()
    ranks = sorted({rank for span in spans for rank in span})
    of_ranks = [
        (rank, sum(n for (low, high), n in spans.items() if low <= rank <= high)) for rank in ranks
    ]
    every: dict[str, list[tuple[Any, int]]] = {
        name: sorted(found.items(), key=lambda pair: (-pair[1], str(pair[0])))
        for name, found in counts.items()
    }
    every["rank"] = of_ranks
    facets = Facets(
        {name: found[:OFFERED] for name, found in every.items()},
        {name: max(0, len(found) - OFFERED) for name, found in every.items()},
    )
    return lists("adapters", [told for _, told in rows]), facets


def adapter_details(library: Library) -> Iterator[File]:
    """Yields the details of every adapter that a scan found or a merge holds.

    Args:
        library: The catalog.
    """
    found: dict[str, dict[str, Any]] = {}

    def entry(key: str, adapter_id: str | None, name: str) -> dict[str, Any]:
        new = {"key": key, "id": shown(adapter_id), "name": name, "rows": []}
        return found.setdefault(key, {**new, "adapter_id": adapter_id or ""})

    for row in _rows(library):
        told = [shown(row[name]) for name in _SHOWN]
        own = entry(adapter_key(row), row["adapter_id"], name_of(row["uri"]))
        own["rows"].append([*told, pairs(row["tags"])])
    for adapter_id in library.parts:
        entry(key_of(adapter_id), adapter_id, library.name_of_adapter(adapter_id))
    grouped = _groups(library)
    yield from details(
        "adapter", [_detail(library, grouped, found.pop(key)) for key in list(found)]
    )


def _detail(
    library: Library, grouped: Mapping[str, list[list[Any]]], entry: dict[str, Any]
) -> Detail:
    adapter_id = entry.pop("adapter_id")
    parts = library.parts.get(adapter_id, ())
    merges = [[*library.label(part.merge_id), *_told(part)] for part in parts]
    groups = grouped.get(adapter_id, [])
    made = [library.label(merge_id) for merge_id in library.made.get(adapter_id, ())]
    n_rows = len(entry["rows"]) + len(merges) + len(groups)
    return Detail(
        entry["key"], n_rows, text({**entry, "merges": merges, "groups": groups, "made": made})
    )


def _told(part: Part) -> list[Any]:
    return [part.msus, shown(part.share)]


def _groups(library: Library) -> dict[str, list[list[Any]]]:
    """By adapter_id: grouping's key and name, group, its merge's key, and how like it is to both."""
    found: dict[str, list[list[Any]]] = {}
    columns = [
        *("grouping_id", "name", "group_name", "merge_id", "adapter_id", "similarity"),
        *("nearest_group", "nearest_similarity", "found_at"),
    ]
    rows = library.groups.select(columns).sort_by(
        [("found_at", "descending"), ("grouping_id", "ascending")]
    )
    for batch in rows.to_batches(max_chunksize=1000):
        for row in batch.to_pylist():
            merge_id = row["merge_id"]
            found.setdefault(row["adapter_id"], []).append(
                [
                    *(key_of(row["grouping_id"]), shown(row["name"]), shown(row["group_name"])),
                    *(key_of(merge_id) if merge_id else None, shown(row["similarity"])),
                    *(shown(row["nearest_group"]), shown(row["nearest_similarity"])),
                    shown(row["found_at"]),
                ]
            )
    return found


def _rows(library: Library) -> Iterator[dict[str, Any]]:
    for batch in library.adapters.to_batches(max_chunksize=1000):
        yield from batch.to_pylist()
