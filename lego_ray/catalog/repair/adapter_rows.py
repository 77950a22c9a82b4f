"""The `adapters` table: doubled rows, refusals that were ended, adapters of merges that have no row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from lego_ray.catalog.changes import Exchange
from lego_ray.catalog.repair.choosing_rows import doubled, last
from lego_ray.catalog.repair.faults import (
    Diagnosis,
    Fault,
    Outputs,
    Row,
    plural,
    taken,
)
from lego_ray.catalog.repair.originals import rows_before_changes, without_changes
from lego_ray.catalog.repair.states import State, former_states
from lego_ray.catalog.schema import TABLES
from lego_ray.catalog.tables import Catalog

TABLE = "adapters"
# The name that every recording of adapters commits under.
_TRANSACTION = "lego_ray.adapters"
_STATUSES = ("ok", "refused", "quarantined")
# Where an adapter is, and whether it can be merged: what the key of a row is made of beside the id.
_OF_KEY = ("uri", "status", "reason")


def diagnose_adapters(
    catalog: Catalog,
    state: State | None,
    merges: Sequence[Row],
    outputs: Outputs,
    *,
    deep: bool,
) -> Diagnosis:
    """Finds what is wrong with the adapters.

    Args:
        catalog: The catalog.
        state: The table; None if there is none.
        merges: Rows of `merges`, once each.
        outputs: What the store says.
        deep: Whether to look at what other programs changed in the rows too.
    """
    table, written = state.read() if state else (TABLES[TABLE].schema.empty_table(), [])
    changed: list[Fault] = []
    if state and deep:
        before = rows_before_changes(catalog, TABLE, key_of, _rest_of)
        table, changed = without_changes(TABLE, table, key_of, lambda r: _told(key_of(r)), before)
    rows = table.to_pylist()
    faults: list[Fault] = [*changed]
    going: set[int] = set()
    for same in doubled(rows, key_of):
        found = plural(len(same.places), "row")
        kept = last(same.places, lambda n: (rows[n]["scanned_at"], written[n]), rows)
        if kept is None:
            differ = f"it has {found} that differ and were scanned at one time"
            faults.append(Fault(TABLE, _told(same.key), differ))
            continue
        going |= set(same.places) - {kept}
        problem = f"it has {found}, all alike" if same.alike else f"it has {found} that differ"
        moment = f"{rows[kept]['scanned_at']:%Y-%m-%dT%H:%M:%SZ}"
        repair = "keep one of them" if same.alike else f"keep the last, scanned at {moment}"
        faults.append(Fault(TABLE, _told(same.key), problem, repair))
    if deep:
        faults += [*_inconsistent(rows), *_elsewhere(rows, merges, outputs)]
    usable: dict[str, Any] = {}
    for n, row in enumerate(rows):
        if row["status"] == "ok" and n not in going:
            usable[row["uri"]] = max(usable.get(row["uri"], row["scanned_at"]), row["scanned_at"])
            if not row["adapter_id"]:
                faults.append(
                    Fault(TABLE, f"uri {row['uri']}", "its status is ok and it has no adapter_id")
                )
    for n, row in enumerate(rows):
        later = usable.get(row["uri"])
        if row["status"] == "refused" and n not in going and later and later > row["scanned_at"]:
            going.add(n)
            faults.append(
                Fault(
                    TABLE,
                    f"uri {row['uri']}",
                    "a row says that it is refused, and a later one that it is usable",
                    "remove the refusal",
                )
            )
    back, lost = _lost(catalog, rows, merges, outputs)
    faults += lost
    if not going and not back.num_rows and not changed:
        return Diagnosis(TABLE, faults)
    staying = [n for n in range(len(rows)) if n not in going]
    right = pa.concat_tables([taken(table, staying), back], promote_options="default")
    schema = state.schema if state else TABLES[TABLE].schema
    number = ((state and state.handle.transaction_version(_TRANSACTION)) or 0) + 1
    change = Exchange(
        lambda: iter([right.select(schema.names)]), schema, None, ((_TRANSACTION, number),)
    )
    return Diagnosis(TABLE, faults, len(going), back.num_rows, len(changed), change)


def key_of(row: Row) -> tuple[str, str]:
    """What no two rows have in common: content and place, or the place alone of what is turned down."""
    return (row["adapter_id"] or "" if row["status"] == "ok" else "", row["uri"])


def _rest_of(row: Row) -> str:
    """A row without its place and status, which are what it is known by."""
    return repr(sorted((k, repr(v)) for k, v in row.items() if k not in _OF_KEY))


def _inconsistent(rows: Sequence[Row]) -> list[Fault]:
    """Rows whose status and reason do not go together."""
    faults = []
    for row in rows:
        status, reason = row["status"], row["reason"]
        problem = ""
        if status not in _STATUSES:
            problem = f"its status is {status!r}; expected one of {', '.join(_STATUSES)}"
        elif (status == "ok") is not (reason is None):
            problem = (
                f"its status is {status}, and it has {'a' if reason else 'no'} reason to refuse it"
            )
        if problem:
            faults.append(Fault(TABLE, f"uri {row['uri']}", problem))
    return faults


def _elsewhere(rows: Sequence[Row], merges: Sequence[Row], outputs: Outputs) -> list[Fault]:
    """Adapters that a merge read at a place that no row has; a scan of another place adds a row."""
    places: dict[str, set[str]] = {}
    for row in rows:
        if row["status"] == "ok":
            places.setdefault(row["adapter_id"], set()).add(row["uri"])
    faults = {}
    for merge in merges:
        for said in outputs.adapters(merge):
            adapter_id, uri = said["adapter_id"], said["uri"]
            there = places.get(adapter_id)
            # What was published elsewhere has names in place of places.
            if there and uri not in there and (uri.startswith("/") or "://" in uri):
                problem = (
                    f"merge {merge['merge_id'][:12]} read it at {uri}, which no row of it says"
                )
                faults[adapter_id] = Fault(TABLE, _told((adapter_id, min(there))), problem)
    return list(faults.values())


def _told(key: tuple[str, str]) -> str:
    adapter_id, uri = key
    return f"adapter_id {adapter_id[:12]}, uri {uri}" if adapter_id else f"uri {uri}"


def _lost(
    catalog: Catalog, rows: Sequence[Row], merges: Sequence[Row], outputs: Outputs
) -> tuple[pa.Table, list[Fault]]:
    """Rows of adapters that merges are made of and that have none, from where they can be had."""
    there = {row["adapter_id"] for row in rows if row["status"] == "ok"}
    recorded = {row["adapter_id"] for row in rows}
    missing = {i for merge in merges for i in merge["adapter_ids"]} - there
    back = [TABLES[TABLE].schema.empty_table()]
    whence: dict[str, str] = dict.fromkeys(missing, "")
    for state in former_states(catalog, TABLE) if rows and missing else ():
        former, _ = state.read()
        usable = [(n, row) for n, row in enumerate(former.to_pylist()) if row["status"] == "ok"]
        places = {row["adapter_id"]: n for n, row in usable}
        mine = sorted(i for i in missing if not whence[i] and i in places)
        back.append(taken(former, [places[i] for i in mine]))
        whence |= dict.fromkeys(mine, "take them from the table's history")
        if all(whence.values()):
            break
    for merge in merges:
        wanted = {i for i in merge["adapter_ids"] if i in missing and not whence[i]}
        said = (
            [row for row in outputs.adapters(merge) if row["adapter_id"] in wanted]
            if wanted
            else []
        )
        back.append(pa.Table.from_pylist(said, schema=TABLES[TABLE].schema))
        whence |= {
            row["adapter_id"]: "write what the merge's manifest says of them" for row in said
        }
    faults = []
    for merge in merges:
        mine = list(dict.fromkeys(i for i in merge["adapter_ids"] if i in missing))
        for repair in dict.fromkeys(whence[i] for i in mine):
            these = [i for i in mine if whence[i] == repair]
            row = "row that is ok" if set(these) & recorded else "row"
            problem = f"{len(these)} of its adapters have no {row}, {these[0][:12]} first"
            key = f"merge_id {merge['merge_id'][:12]}"
            faults.append(Fault(TABLE, key, problem, repair, merge["merge_id"]))
    return pa.concat_tables(back, promote_options="default"), faults
