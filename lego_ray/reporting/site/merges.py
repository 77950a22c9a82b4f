"""Pages of merges: the list of versions, and the details of each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from lego_ray.reporting.site.library import Library, Part, Row
from lego_ray.reporting.site.pages import Detail, File, details, key_of, lists, pairs, shown, text

# What a merge's own row counts as, in rows of its adapters.
_OWN_ROWS = 10


def merge_list(library: Library) -> Iterator[File]:
    """Yields the list of merges, the newest first.

    A row is: key, name, version, method, rank, number of adapters, created_at, status, output_uri, and
    whether it is the latest version of its name.

    Args:
        library: The catalog.
    """
    latest = _latest(library)
    rows = [
        text(
            [
                *(*library.label(merge_id), shown(row["method"]), row["rank"]),
                *(len(row["adapter_ids"]), shown(row["created_at"]), shown(row["status"])),
                *(shown(row["output_uri"]), latest[row["name"]] == merge_id),
            ]
        )
        for merge_id, row in library.merges.items()
    ]
    return lists("merges", rows)


def merge_details(library: Library) -> Iterator[File]:
    """Yields the details of every merge.

    Args:
        library: The catalog.
    """
    parts = {
        (part.merge_id, adapter_id): part
        for adapter_id, found in library.parts.items()
        for part in found
    }
    alike = _similarities(library)
    versions: dict[str, list[Row]] = {}
    updates: dict[str, list[str]] = {}
    for merge_id, row in library.merges.items():
        versions.setdefault(row["name"], []).append(row)
        if row["parent_id"]:
            updates.setdefault(row["parent_id"], []).append(merge_id)
    for found in versions.values():
        found.sort(key=lambda row: -row["version"])
    entries = []
    for merge_id, row in library.merges.items():
        adapters = [
            _adapter(
                library, adapter_id, parts[merge_id, adapter_id], alike.get((merge_id, adapter_id))
            )
            for adapter_id in dict.fromkeys(row["adapter_ids"])
        ]
        adapters.sort(key=lambda each: (-(each[3] or 0.0), each[1], each[0]))
        line = versions[row["name"]]
        told = {
            **_own(library, row),
            "adapters": adapters,
            "updates": [library.label(each) for each in updates.get(merge_id, ())],
            "versions": [
                [key_of(each["merge_id"]), each["version"], shown(each["created_at"])]
                for each in line
            ],
        }
        entries.append(Detail(told["key"], _OWN_ROWS + len(adapters) + len(line), text(told)))
    return details("merge", entries)


def _own(library: Library, row: Row) -> dict[str, Any]:
    merge_id = row["merge_id"]
    output = row["output_adapter_id"] or _output(library, merge_id)
    into = [
        [*library.label(part.merge_id), part.msus, shown(part.share)]
        for part in (library.parts.get(output, ()) if output else ())
    ]
    totals = library.totals.get(merge_id, {})
    return {
        "key": key_of(merge_id),
        "id": shown(merge_id),
        "name": shown(row["name"]),
        "version": row["version"],
        "facts": [
            [name, shown(row[name])]
            for name in (
                *("method", "rank", "seed", "created_at", "seconds", "status", "output_uri"),
                *("content_hash", "n_sites", "n_msus", "drift"),
            )
        ],
        "totals": [[name, shown(value)] for name, value in totals.items()],
        "recipe": _recipe(row["recipe"]),
        "software": pairs(row["versions"]),
        "licenses": [shown(each) for each in row["licenses"] or ()],
        "conflicts": [shown(each) for each in row["license_conflicts"] or ()],
        "parent": library.label(row["parent_id"]) if row["parent_id"] else None,
        "output": key_of(output) if output else None,
        "into": into,
    }


def _output(library: Library, merge_id: str) -> str | None:
    """The output's adapter_id of a merge that was recorded before its row had it."""
    return next((each for each, makers in library.made.items() if merge_id in makers), None)


def _adapter(library: Library, adapter_id: str, part: Part, similarity: float | None) -> list[Any]:
    """Key, name, MSUs, share, similarity to its group, and the merge whose output it is."""
    makers = library.made.get(adapter_id, ())
    return [
        *(key_of(adapter_id), library.name_of_adapter(adapter_id), part.msus, shown(part.share)),
        *(shown(similarity), library.label(makers[-1]) if makers else None),
    ]


def _recipe(recipe: str) -> list[list[str]]:
    """What a recipe says, by name; one that is no JSON object as it is."""
    try:
        found = json.loads(recipe)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        return [["recipe", shown(recipe)]]
    said = {k: v for k, v in sorted(found.items()) if v not in (None, {}, [], "")}
    return [
        [shown(name), shown(value if isinstance(value, str) else json.dumps(value, sort_keys=True))]
        for name, value in said.items()
    ]


def _latest(library: Library) -> dict[str, str]:
    """By name, the merge_id of its highest version."""
    found: dict[str, Row] = {}
    for row in library.merges.values():
        known = found.setdefault(row["name"], row)
        if row["version"] > known["version"]:
            found[row["name"]] = row
    return {name: row["merge_id"] for name, row in found.items()}


def _similarities(library: Library) -> Mapping[tuple[str, str], float]:
    columns = ["merge_id", "adapter_id", "similarity"]
    found: dict[tuple[str, str], float] = {}
    for batch in library.groups.select(columns).to_batches(max_chunksize=1000):
        for row in batch.to_pylist():
            if row["merge_id"] and row["similarity"] is not None:
                found[row["merge_id"], row["adapter_id"]] = row["similarity"]
    return found
