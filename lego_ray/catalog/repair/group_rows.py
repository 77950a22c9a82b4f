"""The `groups` table: doubled rows, and rows of merges that are not there."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import pyarrow as pa

from lego_ray.catalog.changes import Exchange
from lego_ray.catalog.repair.choosing_rows import content, doubled, last
from lego_ray.catalog.repair.faults import Diagnosis, Fault, Row, plural, taken
from lego_ray.catalog.repair.originals import as_recorded
from lego_ray.catalog.repair.states import State, former_states
from lego_ray.catalog.tables import Catalog

TABLE = "groups"


def diagnose_groups(
    catalog: Catalog, state: State, merges: Mapping[str, Collection[str]], *, deep: bool
) -> Diagnosis:
    """Finds what is wrong with the groups.

    Args:
        catalog: The catalog.
        state: The table.
        merges: Adapters of the merges that have a row, or will have one, by merge_id.
        deep: Whether to compare rows with what was first recorded too.
    """
    recorded = merges.keys()
    table, written = state.read()
    table, changed = as_recorded(catalog, TABLE, table, _key, _told) if deep else (table, [])
    rows = table.to_pylist()
    faults = [fault for fault, _ in changed]
    going: set[int] = set()
    for same in doubled(rows, _key):
        grouping, adapter, uri = same.key
        key = f"grouping_id {grouping[:12]}, adapter_id {adapter[:12]}, uri {uri}"
        problem = f"it has {plural(len(same.places), 'row')}"
        merge_id = rows[same.places[0]]["merge_id"] or ""
        # A grouping is written once, so what came later is not of it.
        one = len({content(rows[n], ["found_at"]) for n in same.places}) == 1
        candidates = same.places if one else [n for n in same.places if _fits(rows[n], recorded)]
        kept = (
            last(candidates, lambda n: (-rows[n]["found_at"].timestamp(), -written[n]), rows)
            if candidates
            else None
        )
        repair = "keep one of them" if same.alike else "keep the one that was written first"
        problem += ", all alike" if same.alike else " that differ"
        faults.append(Fault(TABLE, key, problem, repair if kept is not None else "", merge_id))
        if kept is not None:
            going |= set(same.places) - {kept}
    strange: dict[tuple[str, str], int] = {}
    for n, row in enumerate(rows):
        if n not in going and not _fits(row, recorded):
            pair = (row["grouping_id"], row["merge_id"])
            strange[pair] = strange.get(pair, 0) + 1
    for (grouping, merge_id), number in strange.items():
        names = "names" if number == 1 else "name"
        faults.append(
            Fault(
                TABLE,
                f"grouping_id {grouping[:12]}, merge_id {merge_id[:12]}",
                f"{plural(number, 'row')} of it {names} a merge that has no row",
                "",
                merge_id,
            )
        )
    staying = [n for n in range(len(rows)) if n not in going]
    back, incomplete = _lost(catalog, [rows[n] for n in staying], merges)
    faults += incomplete
    if not going and not back and not changed:
        return Diagnosis(TABLE, faults)
    right = pa.concat_tables([taken(table, staying), *back], promote_options="default")
    restored = {each for part in back for each in part["grouping_id"].to_pylist()}
    touched = sorted(
        restored | {rows[n]["grouping_id"] for n in (*going, *(n for _, n in changed))}
    )
    change = Exchange(
        lambda: iter([right.select(state.schema.names)]),
        state.schema,
        None,
        tuple((each, (state.handle.transaction_version(each) or 0) + 1) for each in touched),
    )
    return Diagnosis(
        TABLE, faults, len(going), sum(len(part) for part in back), len(changed), change
    )


def _lost(
    catalog: Catalog, rows: Sequence[Row], merges: Mapping[str, Collection[str]]
) -> tuple[list[pa.Table], list[Fault]]:
    """Rows of groups that have fewer adapters than were merged, from the table's history."""
    there: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row["merge_id"] in merges:
            pair = (row["grouping_id"], row["merge_id"])
            there.setdefault(pair, []).append(row["adapter_id"])
    wanting = {
        pair: f"{plural(len(found), 'adapter')} in its group, which are not the "
        f"{len(merges[pair[1]])} that were merged"
        for pair, found in there.items()
        if sorted(found) != sorted(merges[pair[1]])
    }
    back: list[pa.Table] = []
    faults: list[Fault] = []
    known = {_key(row) for row in rows}
    for former in former_states(catalog, TABLE) if wanting else ():
        table, _ = former.read()
        then = table.to_pylist()
        for pair in list(wanting):
            grouping, merge_id = pair
            of_it = [(n, row) for n, row in enumerate(then) if row["grouping_id"] == grouping]
            group = [row["adapter_id"] for _, row in of_it if row["merge_id"] == merge_id]
            if sorted(group) == sorted(merges[merge_id]):
                # With those that stayed alone, whom nothing else would miss.
                back.append(taken(table, [n for n, row in of_it if _key(row) not in known]))
                known |= {_key(row) for _, row in of_it}
                faults.append(
                    _incomplete(pair, wanting.pop(pair), "take it from the table's history")
                )
    return back, faults + [_incomplete(pair, problem, "") for pair, problem in wanting.items()]


def _incomplete(pair: tuple[str, str], problem: str, repair: str) -> Fault:
    grouping, merge_id = pair
    key = f"grouping_id {grouping[:12]}, merge_id {merge_id[:12]}"
    return Fault(TABLE, key, f"grouping {grouping[:12]} has {problem}", repair, merge_id)


def _told(row: Row) -> str:
    grouping, adapter, uri = _key(row)
    return f"grouping_id {grouping[:12]}, adapter_id {adapter[:12]}, uri {uri}"


def _key(row: Row) -> tuple[str, str, str]:
    return row["grouping_id"], row["adapter_id"], row["uri"]


def _fits(row: Row, recorded: Collection[str]) -> bool:
    return row["merge_id"] is None or row["merge_id"] in recorded
