"""Rows of SQL as JSON has them: its types are fewer than those of DuckDB."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date, datetime, time
from typing import Any


def json_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of which JSON can hold every value.

    NaN and infinity, for which JSON has no numbers, become null. Maps, which Arrow gives as pairs,
    become objects; times and dates ISO 8601; bytes hex digits; anything else that JSON lacks its text.

    Args:
        row: Values by column.
    """
    return {name: _value(value) for name, value in row.items()}


def _value(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        return {_key(key): _value(each) for key, each in value.items()}
    if isinstance(value, list) and value and all(_is_pair(each) for each in value):
        return {_key(key): _value(each) for key, each in value}
    if isinstance(value, list | tuple):
        return [_value(each) for each in value]
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return value.hex() if isinstance(value, bytes) else str(value)


def _is_pair(value: Any) -> bool:
    return type(value) is tuple and len(value) == 2


def _key(key: Any) -> str:
    found = _value(key)
    return found if isinstance(found, str) else str(found)
