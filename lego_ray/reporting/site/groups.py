"""Pages of groupings, and of the trials of `tune`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from lego_ray.reporting.site.library import Library
from lego_ray.reporting.site.pages import Detail, File, details, key_of, lists, shown, text


def grouping_pages(library: Library) -> tuple[list[File], int]:
    """The list of groupings, the latest first, and the details of each.

    A row of the list is: key, name, found_at, number of groups, of adapters in groups, and of those
    alone.

    Args:
        library: The catalog.

    Returns:
        The files, and how many groupings there are.
    """
    found: dict[str, dict[str, Any]] = {}
    order = [("found_at", "descending"), ("grouping_id", "ascending"), ("uri", "ascending")]
    for batch in library.groups.sort_by(order).to_batches(max_chunksize=1000):
        for row in batch.to_pylist():
            grouping_id = row["grouping_id"]
            new = {
                "key": key_of(grouping_id),
                "name": shown(row["name"]),
                "found_at": shown(row["found_at"]),
                "silhouette": shown(row["silhouette"]),
                "groups": {},
                "alone": [],
            }
            own = found.setdefault(grouping_id, new)
            if row["group_name"] is None:
                own["alone"].append(
                    [
                        *(key_of(row["adapter_id"]), library.name_of_adapter(row["adapter_id"])),
                        *(shown(row["nearest_group"]), shown(row["nearest_similarity"])),
                    ]
                )
            else:
                merge = library.label(row["merge_id"]) if row["merge_id"] else None
                members = own["groups"].setdefault(row["group_name"], (merge, []))[1]
                members.append(row["similarity"])
    rows, entries = [], []
    for own in found.values():
        groups = [
            [shown(name), merge, len(members), _mean([s for s in members if s is not None])]
            for name, (merge, members) in sorted(own["groups"].items())
        ]
        n_members = sum(group[2] for group in groups)
        rows.append(
            text(
                [
                    own["key"],
                    own["name"],
                    own["found_at"],
                    len(groups),
                    n_members,
                    len(own["alone"]),
                ]
            )
        )
        size = 1 + len(groups) + len(own["alone"])
        entries.append(Detail(own["key"], size, text({**own, "groups": groups})))
    return [*lists("groupings", rows), *details("grouping", entries)], len(rows)


def _mean(values: list[float]) -> float | None:
    found: float | None = shown(sum(values) / len(values)) if values else None
    return found


def trial_pages(library: Library) -> tuple[Iterator[File], list[str]]:
    """The rows of `trials`, in columns as the table has them, and the names of these.

    Args:
        library: The catalog; it has trials.
    """
    if library.trials is None:
        return iter(()), []
    rows = [
        text([_cell(value) for value in row.values()])
        for batch in library.trials.to_batches(max_chunksize=1000)
        for row in batch.to_pylist()
    ]
    return lists("trials", rows), [shown(name) for name in library.trials.column_names]


def _cell(value: Any) -> Any:
    """A cell of any type: what JSON lacks, maps and lists as text."""
    if isinstance(value, list | dict | tuple):
        if value and all(isinstance(each, tuple) and len(each) == 2 for each in value):
            value = dict(value)
        return shown(json.dumps(value, default=str, sort_keys=True))
    found = shown(value)
    return (
        found if found is None or isinstance(found, bool | int | float | str) else shown(str(found))
    )
