"""Of several rows with one key, which is right."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from lego_ray.catalog.repair.faults import Row


@dataclass(frozen=True, slots=True)
class Same:
    """Rows with one key.

    Attributes:
        key: The key.
        places: Where they are among all rows.
        alike: Whether they are equal in every column.
    """

    key: Any
    places: tuple[int, ...]
    alike: bool


def doubled(rows: Sequence[Row], key_of: Callable[[Row], Hashable]) -> list[Same]:
    """The keys that several rows have, in order of their first row.

    Args:
        rows: All rows.
        key_of: The key of a row.
    """
    places: dict[Hashable, list[int]] = {}
    for n, row in enumerate(rows):
        places.setdefault(key_of(row), []).append(n)
    return [
        Same(key, tuple(found), len({content(rows[n]) for n in found}) == 1)
        for key, found in places.items()
        if len(found) > 1
    ]


def content(row: Row, without: Sequence[str] = ()) -> str:
    """A row's values, so that equal ones are equal text. Maps have no order.

    Args:
        row: The row.
        without: Columns to leave out.
    """
    return repr(sorted((name, _plain(value)) for name, value in row.items() if name not in without))


def _plain(value: object) -> str:
    if isinstance(value, list) and value and all(isinstance(each, tuple) for each in value):
        return repr(sorted(value))
    return repr(value)


def last(places: Sequence[int], rank: Callable[[int], Any], rows: Sequence[Row]) -> int | None:
    """The place of the row that ranks highest, or None if rows that differ rank highest together.

    Args:
        places: Places of the rows to choose from.
        rank: The rank of the row at a place.
        rows: All rows.
    """
    highest = max(rank(n) for n in places)
    found = [n for n in places if rank(n) == highest]
    return found[0] if len({content(rows[n]) for n in found}) == 1 else None
