"""What rows were when they were first recorded, as far as a table's history still has them.

Most rows never change once they are recorded. So where another program changed one, a state of the table
before that has it as it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from lego_ray.catalog.repair.asking import ask
from lego_ray.catalog.repair.faults import Fault, Row
from lego_ray.catalog.repair.states import State, former_states
from lego_ray.catalog.schema import TABLES
from lego_ray.catalog.tables import Catalog

# What the Delta library and Spark call changes of rows that are there.
_CHANGES = frozenset({"UPDATE", "MERGE"})
# Columns that users added are theirs to change.
_OURS = frozenset(column.name for spec in TABLES.values() for column in spec.columns)


class Originals:
    """The details of merges as they were first recorded."""

    def __init__(self, catalog: Catalog, table: str) -> None:
        """Reads nothing yet.

        Args:
            catalog: The catalog.
            table: `merge_sites` or `msus`.
        """
        self._catalog = catalog
        self._table = table
        self._former: list[State] | None = None

    def changes(self, row: Row, now: pa.Table, keys: Sequence[str]) -> list[str]:
        """What is not in a merge's rows as it was, a sentence or none.

        Args:
            row: The merge's row of `merges`.
            now: Its rows.
            keys: The columns that a row is known by.
        """
        for state in reversed(self._states(row)):
            first, _ = state.of_merge(row["merge_id"])
            if first.num_rows:
                return _differing(self._table, now, first, keys)
        return []

    def has_any(self, row: Row) -> bool:
        """Whether a commit of others changed the table after a merge was recorded, as far as is known.

        Args:
            row: The merge's row of `merges`.
        """
        return bool(self._states(row))

    def _states(self, row: Row) -> list[State]:
        if self._former is None:
            self._former = list(former_states(self._catalog, self._table))
        recorded = row["created_at"].timestamp() * 1000
        # Details are whole when the merge is recorded. Those before may be of a run that was cut short.
        return [each for each in self._former if each.ended_at > recorded]


def _differing(table: str, now: pa.Table, first: pa.Table, keys: Sequence[str]) -> list[str]:
    ours = (column.name for column in TABLES[table].columns)
    names = [n for n in ours if n in now.column_names and n in first.column_names]
    both = {"now": now.select(names), "first": first.select(names)}
    [(number,)] = ask(table, both, "SELECT count(*) FROM (FROM now EXCEPT FROM first)")
    if not number:
        return []
    joined = " AND ".join(f'now."{key}" = first."{key}"' for key in keys)
    others = [name for name in names if name not in keys]
    sums = ", ".join(f'count(*) FILTER (now."{n}" IS DISTINCT FROM first."{n}")' for n in others)
    [counts] = ask(table, both, f"SELECT {sums} FROM now JOIN first ON {joined}")
    changed = [name for name, count in zip(others, counts, strict=True) if count]
    return [f"{changed_words(number, changed)} first recorded"]


def changed_words(number: int, columns: Sequence[str]) -> str:
    """The beginning of the sentence that rows are not as they were.

    Args:
        number: How many rows.
        columns: The columns that differ.
    """
    which = f"{', '.join(columns)} of " if columns else ""
    are = "is not as it was" if number == 1 and len(columns) == 1 else "are not as they were"
    return f"{which}{number} {'row' if number == 1 else 'rows'} {are}"


def first_rows(
    catalog: Catalog, table: str, key_of: Callable[[Row], Hashable]
) -> dict[Hashable, dict[str, Any]]:
    """Rows of a table's former states by key, each as the earliest of the states has it.

    Args:
        catalog: The catalog.
        table: Name of the table, of one whose rows never change.
        key_of: The key of a row.
    """
    found: dict[Hashable, dict[str, Any]] = {}
    for state in former_states(catalog, table):  # the last first
        rows = state.read()[0].to_pylist()
        counts = Counter(map(key_of, rows))
        found |= {key_of(row): row for row in rows if counts[key_of(row)] == 1}
    return found


def rows_before_changes(
    catalog: Catalog,
    table: str,
    key_of: Callable[[Row], Hashable],
    rest_of: Callable[[Row], Hashable] | None = None,
) -> list[dict[Hashable, tuple[dict[str, Any], dict[str, Any]]]]:
    """Rows that commits of other programs changed, by key: as they were, and as they were after it.

    Args:
        catalog: The catalog.
        table: Name of the table.
        key_of: The key of a row.
        rest_of: What tells rows apart whose key was changed; None if nothing does.

    Returns:
        One mapping a commit, the last first, by the key after it.
    """
    found = []
    for state in former_states(catalog, table, _CHANGES):
        before = {key_of(row): row for row in state.read()[0].to_pylist()}
        rows = state.after(catalog).read()[0].to_pylist()
        after = {key_of(row): row for row in rows}
        pairs = {key: (before[key], after[key]) for key in before.keys() & after.keys()}
        if rest_of is not None:
            gone = _alone([before[key] for key in before.keys() - after.keys()], rest_of)
            new = _alone([after[key] for key in after.keys() - before.keys()], rest_of)
            pairs |= {key_of(new[rest]): (gone[rest], new[rest]) for rest in gone.keys() & new}
        found.append(pairs)
    return found


def _alone(
    rows: Sequence[dict[str, Any]], rest_of: Callable[[Row], Hashable]
) -> dict[Hashable, dict[str, Any]]:
    """Rows by what tells them apart, those that nothing tells apart left out."""
    counts = Counter(map(rest_of, rows))
    return {rest: row for row in rows if counts[rest := rest_of(row)] == 1}


def as_recorded(
    catalog: Catalog,
    table: str,
    rows: pa.Table,
    key_of: Callable[[Row], Hashable],
    told: Callable[[Row], str],
) -> tuple[pa.Table, list[tuple[Fault, int]]]:
    """Rows of a table whose rows never change, as they were first recorded.

    Args:
        catalog: The catalog.
        table: Name of the table.
        rows: Its rows.
        key_of: The key of a row; where rows have one, nothing is known of them.
        told: The key as text.

    Returns:
        The rows, and what is wrong with which of them.
    """
    first = first_rows(catalog, table, key_of)
    right, found = [], []
    plain = rows.to_pylist()
    keys = [key_of(row) for row in plain] if first else []
    counts = Counter(keys)
    for n, key in enumerate(keys):
        row = plain[n]
        was = first[key] if counts[key] == 1 and key in first else row
        names = different(row, was, ())
        right.append({**row, **{name: was[name] for name in names}})
        if names:
            found.append((_changed_fault(table, told(row), row, was, names), n))
    return (pa.Table.from_pylist(right, schema=rows.schema) if found else rows), found


def without_changes(
    table: str,
    rows: pa.Table,
    key_of: Callable[[Row], Hashable],
    told: Callable[[Row], str],
    changes: Sequence[Mapping[Hashable, tuple[Row, Row]]],
) -> tuple[pa.Table, list[Fault]]:
    """Rows without what other programs changed in them; tags are for people to change.

    Args:
        table: Name of the table.
        rows: Its rows.
        key_of: The key of a row.
        told: The key as text.
        changes: By `rows_before_changes`.
    """
    right, found = [], []
    for row in rows.to_pylist():
        after = dict(row)
        for change in changes:
            if (key := key_of(after)) not in change:
                continue
            before, then = change[key]
            names = different(then, before, ("tags",))
            # What lego-ray wrote since then stays.
            same = [n for n in names if n in after and not different({n: after[n]}, then, ())]
            after |= {name: before[name] for name in same}
        names = different(row, after, ())
        if names:
            found.append(_changed_fault(table, told(row), row, after, names))
        right.append(after)
    return (pa.Table.from_pylist(right, schema=rows.schema) if found else rows), found


def _changed_fault(table: str, key: str, now: Row, was: Row, names: Sequence[str]) -> Fault:
    said = "; ".join(f"{name} is {now[name]}, it was {was[name]}" for name in names)
    repair = "take it from the table's history"
    return Fault(table, key, f"{said} before another program changed it", repair)


def different(
    now: Mapping[str, Any], first: Mapping[str, Any], without: Sequence[str]
) -> list[str]:
    """The columns in which a row is not as it was.

    Args:
        now: The row.
        first: As it was; columns that came later are not looked at.
        without: Columns that may change.
    """
    return [
        name
        for name in now
        if name in _OURS
        and name in first
        and name not in without
        and _plain(now[name]) != _plain(first[name])
    ]


def _plain(value: object) -> str:
    """A value, so that equal ones are equal text: maps have no order."""
    if isinstance(value, list) and value and all(isinstance(each, tuple) for each in value):
        return repr(sorted(value))
    return repr(value)
