"""The `merges` table: doubled rows, versions used twice, merges that were recorded and have no row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from lego_ray.catalog.changes import Exchange
from lego_ray.catalog.repair.choosing_rows import Same, content, doubled, last
from lego_ray.catalog.repair.faults import (
    Diagnosis,
    Fault,
    Outputs,
    Row,
    plural,
    taken,
)
from lego_ray.catalog.repair.merge_values import put_back, put_back_versions
from lego_ray.catalog.repair.states import State, former_states
from lego_ray.catalog.tables import Catalog

TABLE = "merges"


def diagnose_merges(
    catalog: Catalog, state: State, outputs: Outputs, *, deep: bool
) -> tuple[Diagnosis, pa.Table]:
    """Finds what is wrong with the rows of merges.

    Args:
        catalog: The catalog.
        state: The table.
        outputs: What the store says.
        deep: Whether to compare rows with what was first recorded too.

    Returns:
        What was found; and the rows as they should be, for looking at the other tables.
    """
    table, written = state.read()
    rows = table.to_pylist()
    faults: list[Fault] = []
    going: set[int] = set()
    for same in doubled(rows, lambda row: row["merge_id"]):
        kept, repair = _choose(same, rows, written, outputs)
        problem = f"the merge has {plural(len(same.places), 'row')}"
        problem += ", all alike" if same.alike else " that differ"
        key = f"merge_id {same.key[:12]}"
        faults.append(Fault(TABLE, key, problem, repair, same.key))
        if kept is not None:
            going |= set(same.places) - {kept}
    back, lost = _lost(catalog, state, {row["merge_id"] for row in rows})
    faults += lost
    staying = taken(table, [n for n in range(len(rows)) if n not in going])
    right = pa.concat_tables([staying, back], promote_options="default") if back else staying
    right, changed = put_back(catalog, right, outputs, deep=deep)
    if deep:
        given = state.handle.transaction_version
        right, others = put_back_versions(catalog, right, lambda name: given(f"name:{name}"))
        changed += others
    faults += changed
    mended = [fault for fault in changed if fault.repair]
    right, names, renumbered = _renumber(right)
    faults += renumbered
    if not going and not back and not renumbered and not mended:
        return Diagnosis(TABLE, faults), right
    handle = state.handle
    transactions = {f"name:{name}": version for name, version in names.items()}
    for merge_id in {rows[n]["merge_id"] for n in going} | {f.merge_id for f in [*lost, *mended]}:
        transactions[merge_id] = (handle.transaction_version(merge_id) or 0) + 1
    change = Exchange(
        lambda: iter([right.select(state.schema.names)]),
        state.schema,
        None,
        tuple(transactions.items()),
    )
    n_back = back.num_rows if back else 0
    return Diagnosis(
        TABLE, faults, len(going), n_back, len({f.merge_id for f in [*renumbered, *mended]}), change
    ), right


def _choose(
    same: Same, rows: Sequence[Row], written: Sequence[int], outputs: Outputs
) -> tuple[int | None, str]:
    """Which of the rows of one merge stays, and why; None if that cannot be said."""
    if same.alike:
        return same.places[0], "keep one of them"
    if len({content(rows[n], ["version"]) for n in same.places}) == 1:
        # A version only ever rises; the lower one came back.
        kept = max(same.places, key=lambda n: int(rows[n]["version"]))
        return kept, f"keep version {rows[kept]['version']}, the highest"
    agreeing = [n for n in same.places if outputs.agrees(rows[n])]
    if not agreeing:
        return None, ""
    kept_or_none = last(
        agreeing, lambda n: (rows[n]["version"], rows[n]["created_at"], written[n]), rows
    )
    return kept_or_none, "" if kept_or_none is None else "keep the row that matches its output"


def _renumber(table: pa.Table) -> tuple[pa.Table, dict[str, int], list[Fault]]:
    """Gives merges of one name and version versions of their own, in the order they were made in."""
    columns = ["merge_id", "name", "version", "created_at"]
    rows: list[dict[str, Any]] = table.select(columns).to_pylist()
    faults: list[Fault] = []
    highest: dict[str, int] = {}
    for name in sorted({row["name"] for row in rows}):
        mine = [row for row in rows if row["name"] == name]
        if len({(row["version"], row["merge_id"]) for row in mine}) != len(mine):
            continue  # rows of one merge that nothing distinguishes
        if len({row["version"] for row in mine}) == len(mine):
            continue
        reached = 0
        for row in sorted(mine, key=lambda r: (r["version"], r["created_at"], r["merge_id"])):
            version = max(row["version"], reached + 1)
            if version != row["version"]:
                problem = (
                    f"version {row['version']} of {name} is another merge too"
                    if row["version"] == reached
                    else f"version {row['version']} of {name} comes after one that gets its number"
                )
                key = f"merge_id {row['merge_id'][:12]}"
                repair = f"make it version {version}"
                faults.append(Fault(TABLE, key, problem, repair, row["merge_id"]))
            row["version"] = reached = version
        highest[name] = reached
    if not faults:
        return table, {}, []
    field = table.schema.field("version")
    versions = pa.array([row["version"] for row in rows], field.type)
    return (
        table.set_column(table.schema.get_field_index("version"), field, versions),
        highest,
        faults,
    )


def _lost(catalog: Catalog, state: State, there: set[str]) -> tuple[pa.Table | None, list[Fault]]:
    """Merges whose row was committed once, that others name, and that have none now."""
    missing = {
        merge_id
        for merge_id in _named(catalog) - there
        if state.handle.transaction_version(merge_id) is not None
    }
    if not missing:
        return None, []
    back: list[pa.Table] = []
    faults: list[Fault] = []
    for former in former_states(catalog, TABLE):
        rows, _ = former.read()
        places = {merge_id: n for n, merge_id in enumerate(rows["merge_id"].to_pylist())}
        mine = sorted(missing & places.keys())
        if mine:
            back.append(taken(rows, [places[merge_id] for merge_id in mine]))
            faults += [_lost_fault(each, "take it from the table's history") for each in mine]
            missing -= set(mine)
        if not missing:
            break
    faults += [_lost_fault(each, "") for each in sorted(missing)]
    return pa.concat_tables(back, promote_options="default") if back else None, faults


def _named(catalog: Catalog) -> set[str]:
    found: set[str] = set()
    for table in ("merge_sites", "groups"):
        if catalog.exists(table):
            state = catalog.whole(table)
            for batch in state.to_batches(columns=["merge_id"]):
                found |= set(batch.column("merge_id").unique().to_pylist())
    return found - {None}


def _lost_fault(merge_id: str, repair: str) -> Fault:
    problem = "it was recorded, but its row is missing"
    return Fault(TABLE, f"merge_id {merge_id[:12]}", problem, repair, merge_id)
