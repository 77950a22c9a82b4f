"""What can be wrong with rows, and what a look at a table finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from lego_ray.catalog.changes import Exchange

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        table: Name of the table.
        key: Which row or rows, as `column value, column value`.
        problem: What is wrong with them.
        repair: What a repair does about it; empty if nothing can be done from here.
        merge_id: The merge they belong to; empty if none.
    """

    table: str
    key: str
    problem: str
    repair: str = ""
    merge_id: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One table, looked at.

    Attributes:
        table: Its name.
        faults: What is wrong with it.
        removed: Rows that the change takes away.
        added: Rows that it brings back.
        changed: Rows that it changes.
        change: The commit that repairs what can be repaired; None if nothing can.
        unpublished: Merges that it has details of and that have no row: of runs that were cut short, or
            publish now.
    """

    table: str
    faults: Sequence[Fault] = ()
    removed: int = 0
    added: int = 0
    changed: int = 0
    change: Exchange | None = None
    unpublished: frozenset[str] = frozenset()


class Outputs(Protocol):
    """What the outputs in the store say, for rows that the tables alone cannot decide on."""

    def agrees(self, merge: Row) -> bool | None:
        """Whether the output that a row of `merges` names is that merge; None if it cannot be read."""

    def row(self, merge: Row) -> dict[str, Any]:
        """Columns of `merges` that a merge's output has too; none if it is not readable or another."""

    def adapters(self, merge: Row) -> list[dict[str, Any]]:
        """Rows of `adapters` for what a merge's output says it was made of; none if not readable."""


def plural(number: int, what: str) -> str:
    """A number and what it counts.

    Args:
        number: The number.
        what: What it counts, of one.
    """
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def taken(rows: pa.Table, places: Sequence[int]) -> pa.Table:
    """The rows at some places.

    Args:
        rows: All rows.
        places: Their places; there may be none.
    """
    return rows.take(pa.array(places, pa.int64()))
