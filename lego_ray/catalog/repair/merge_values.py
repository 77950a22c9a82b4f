"""Values of `merges` that are not what was recorded, or not what the merge's output says."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from lego_ray.catalog.repair.faults import Fault, Outputs, Row
from lego_ray.catalog.repair.originals import different, first_rows, rows_before_changes
from lego_ray.catalog.tables import Catalog

TABLE = "merges"
# What a refresh that goes back to a merge changes.
_CHANGING = ("version",)
_LONGEST = 60
HISTORY = "take them from the table's history"
MANIFEST = "write what the manifest of its output says"


def put_back(
    catalog: Catalog, table: pa.Table, outputs: Outputs, *, deep: bool
) -> tuple[pa.Table, list[Fault]]:
    """Finds values that are wrong, and puts the right ones in their place where those are known.

    Args:
        catalog: The catalog.
        table: Rows of `merges`, once each.
        outputs: What the store says.
        deep: Whether to compare with what was first recorded too.

    Returns:
        The rows as they should be, and what is wrong.
    """
    rows = table.to_pylist()
    first = first_rows(catalog, TABLE, lambda row: row["merge_id"]) if deep else {}
    counts = Counter(row["merge_id"] for row in rows)
    faults: list[Fault] = []
    right: list[dict[str, Any]] = []
    for row in rows:
        found: list[Fault] = []
        after = dict(row)
        if counts[row["merge_id"]] == 1:
            after, found = _row(row, first.get(row["merge_id"]), outputs.row(row))
        right.append(after)
        faults += found
    if not any(fault.repair for fault in faults):
        return table, faults
    return pa.Table.from_pylist(right, schema=table.schema), faults


def put_back_versions(
    catalog: Catalog, table: pa.Table, given: Callable[[str], int | None]
) -> tuple[pa.Table, list[Fault]]:
    """Finds versions that lego-ray did not give, and puts those in their place that it gave.

    Args:
        catalog: The catalog.
        table: Rows of `merges`, once each.
        given: The highest version that was given to merges of a name, None if that is not known.

    Returns:
        The rows as they should be, and what is wrong.
    """
    changes = rows_before_changes(catalog, TABLE, lambda row: row["merge_id"])
    rows: list[dict[str, Any]] = table.to_pylist()
    faults: list[Fault] = []
    is_changed = False
    for row in rows:
        key, found = f"merge_id {row['merge_id'][:12]}", row["version"]
        for change in changes:  # the last first
            if row["merge_id"] in change:
                before, then = change[row["merge_id"]]
                # What lego-ray gave since then stays.
                if row["version"] == then["version"]:
                    row["version"] = before["version"]
        highest = given(row["name"])
        if row["version"] != found:
            is_changed = True
            problem = (
                f"version is {found}, it was {row['version']} before another program changed it"
            )
            faults.append(Fault(TABLE, key, problem, HISTORY, row["merge_id"]))
        elif found < 1 or (highest is not None and found > highest):
            problem = f"version {found} of {row['name']} was never given, the highest was {highest}"
            faults.append(Fault(TABLE, key, problem, "", row["merge_id"]))
    if not is_changed:
        return table, faults
    return pa.Table.from_pylist(rows, schema=table.schema), faults


def _row(
    row: Row, first: Row | None, manifest: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Fault]]:
    after, faults = dict(row), []
    key = f"merge_id {row['merge_id'][:12]}"
    if first is not None and (changed := different(row, first, _CHANGING)):
        after |= {name: first[name] for name in changed}
        problem = f"{_told(row, first, changed)} when it was recorded"
        faults.append(Fault(TABLE, key, problem, HISTORY, row["merge_id"]))
    wrong = [name for name, value in manifest.items() if not _same(name, after.get(name), value)]
    if wrong:
        # Where the history and the output differ, nobody can decide here which is right.
        known = first is not None and not set(wrong) - first.keys()
        if not known:
            after |= {name: manifest[name] for name in wrong}
        problem = f"{_told({**row, **after} if known else row, manifest, wrong)} by its manifest"
        faults.append(Fault(TABLE, key, problem, "" if known else MANIFEST, row["merge_id"]))
    return after, faults


def _same(name: str, recorded: Any, said: Any) -> bool:
    if recorded is None:  # of a release before the column
        return name != "parent_id" or said is None
    if name == "recipe":
        try:
            return bool(json.loads(recorded) == json.loads(said))
        except ValueError:
            return False
    return bool(recorded == said)


def _told(now: Row, right: Mapping[str, Any], names: list[str]) -> str:
    said = (f"{name} is {_short(now[name])}, it was {_short(right[name])}" for name in names)
    return "; ".join(said)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
