"""The `trials` table: doubled rows."""

from __future__ import annotations

from lego_ray.catalog.changes import Exchange
from lego_ray.catalog.repair.choosing_rows import doubled, last
from lego_ray.catalog.repair.faults import Diagnosis, Fault, Row, plural, taken
from lego_ray.catalog.repair.originals import as_recorded
from lego_ray.catalog.repair.states import State
from lego_ray.catalog.tables import Catalog

TABLE = "trials"


def diagnose_trials(catalog: Catalog, state: State, *, deep: bool) -> Diagnosis:
    """Finds trials that are recorded more than once, or that were changed since.

    Args:
        catalog: The catalog.
        state: The table.
        deep: Whether to compare rows with what was first recorded too.
    """
    table, written = state.read()
    table, changed = as_recorded(catalog, TABLE, table, _key, _told) if deep else (table, [])
    rows = table.to_pylist()
    faults = [fault for fault, _ in changed]
    going: set[int] = set()
    for same in doubled(rows, _key):
        study, number = same.key
        # A trial is recorded once, so what came later is not of it.
        kept = last(same.places, lambda n: (-rows[n]["recorded_at"].timestamp(), -written[n]), rows)
        problem = f"it has {plural(len(same.places), 'row')}"
        problem += ", all alike" if same.alike else " that differ"
        repair = "keep one of them" if same.alike else "keep the one that was written first"
        key = f"study_id {study[:12]}, trial {number}"
        faults.append(Fault(TABLE, key, problem, repair if kept is not None else ""))
        if kept is not None:
            going |= set(same.places) - {kept}
    if not going and not changed:
        return Diagnosis(TABLE, faults)
    right = taken(table, [n for n in range(len(rows)) if n not in going])
    # Not under the study's own name, whose number says how many of its trials are recorded.
    names = sorted({f"repair of {rows[n]['study_id']}" for n in (*going, *(n for _, n in changed))})
    change = Exchange(
        lambda: iter([right.select(state.schema.names)]),
        state.schema,
        None,
        tuple((name, (state.handle.transaction_version(name) or 0) + 1) for name in names),
    )
    return Diagnosis(TABLE, faults, len(going), 0, len(changed), change)


def _told(row: Row) -> str:
    return f"study_id {row['study_id'][:12]}, trial {row['trial']}"


def _key(row: Row) -> tuple[str, int]:
    return row["study_id"], row["trial"]
