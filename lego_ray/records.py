"""What calls return: frozen records that are dictionaries too."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from html import escape
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NoReturn, Self

from lego_ray.errors import MissingPackage

if TYPE_CHECKING:
    import pyarrow as pa

# A notebook shows this many rows and messages; `to_arrow` has all of them.
SHOWN = 20
# And lists of so few values whole.
FEW = 8


class Record(dict[str, Any]):
    """Base of frozen dataclasses whose keys are their attributes: `record["x"]` is `record.x`.

    A key's value is made of what JSON knows (a list where the attribute is a tuple), so `json.dumps`
    takes a record as it takes any dictionary. A record does not change; `dict(record)` is a copy that
    may.
    """

    def __post_init__(self) -> None:
        for name in self._known():
            super().__setitem__(name, plain(getattr(self, name)))

    def as_json(self) -> dict[str, Any]:
        """The record as `--json` prints it: of plain lists and dictionaries."""
        return {key: _json(value) for key, value in self.items()}

    def _known(self) -> list[str]:
        """Names of the attributes that this record has a value for, in order."""
        return [field.name for field in fields(self)]  # type: ignore[arg-type]

    def _repr_html_(self) -> str:
        """A table, for notebooks; below it what was refused or failed, and the warnings."""
        return table(*self._shown()) + messages(self)

    def _shown(self) -> tuple[str, Mapping[str, Any]]:
        """A caption and the rows of the table in a notebook: counts in place of lists."""
        rows = {
            name: len(value) if isinstance(value, list | dict) else value
            for name, value in self.items()
        }
        return type(self).__name__, rows

    def __reduce__(self) -> tuple[Any, ...]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        return _again, (type(self), values)

    def copy(self) -> dict[str, Any]:
        """A dictionary of the same, which may change."""
        return dict(self)

    def _fixed(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        raise TypeError(f"{type(self).__name__} does not change; change a copy: dict(record)")

    __setitem__ = _fixed
    __delitem__ = _fixed
    __ior__ = _fixed
    clear = _fixed
    pop = _fixed
    popitem = _fixed
    setdefault = _fixed
    update = _fixed


def names_of(kind: type[Record]) -> tuple[str, ...]:
    """Names of the attributes of a kind of record: the columns of a table of them."""
    return tuple(field.name for field in fields(kind))  # type: ignore[arg-type]


class TableRecord(Record):
    """Base of records that are about a list of things: they are tables too.

    Attributes:
        rows_of: Name of the attribute that is the table, a row for each of its entries.
        columns: Names of the columns, which a table without rows has too.
    """

    rows_of = ""
    columns: tuple[str, ...] = ()

    def to_arrow(self) -> pa.Table:
        """The record's table for Arrow, polars and DuckDB; see `rows_of` for what its rows are.

        A column of mappings from text to text is a map; one whose values have no common type is JSON
        text.
        """
        return arrow_table(self._rows(), self.columns)

    def to_pandas(self) -> Any:
        """The record's table as a `pandas.DataFrame`.

        Raises:
            MissingPackage: If pandas is not installed.
        """
        return frame_of(self.to_arrow())

    def _rows(self) -> Sequence[Mapping[str, Any]]:
        return _json(self[self.rows_of])  # type: ignore[no-any-return]

    def _repr_html_(self) -> str:
        return table(*self._shown()) + rows_table(self._rows()) + messages(self)


def arrow_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> pa.Table:
    """An Arrow table of rows.

    Args:
        rows: The rows, of what JSON knows.
        columns: Columns that it has also where no row has them.
    """
    import pyarrow as pa

    names = list(dict.fromkeys([*columns, *(name for row in rows for name in row)]))
    return pa.table({name: _column([row.get(name) for row in rows]) for name in names})


def _column(values: Sequence[Any]) -> pa.Array:
    import pyarrow as pa

    known = [value for value in values if value is not None]
    if known and all(isinstance(value, Mapping) for value in known):
        inner = [each for value in known for each in value.values()]
        if all(isinstance(each, str) for each in inner):
            pairs = [None if value is None else list(value.items()) for value in values]
            return pa.array(pairs, pa.map_(pa.string(), pa.string()))
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        texts = (v if v is None or isinstance(v, str) else json.dumps(v) for v in values)
        return pa.array(list(texts), pa.string())


def frame_of(found: pa.Table) -> Any:
    """An Arrow table as a `pandas.DataFrame`.

    Raises:
        MissingPackage: If pandas is not installed.
    """
    if find_spec("pandas") is None:
        raise MissingPackage(
            "to_pandas",
            "pandas is not installed",
            "pip install pandas, or use to_arrow(), which needs no other package.",
        )
    return found.to_pandas()


def rows_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The first rows of a table, for notebooks; long lists as their length, no columns of nothing."""
    shown = rows[:SHOWN]
    names = [
        name
        for name in dict.fromkeys(name for row in shown for name in row)
        if any(row.get(name) not in (None, "", [], {}) for row in shown)
    ]
    if not names:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(_short(row.get(name)))}</td>" for name in names) + "</tr>"
        for row in shown
    )
    more = f"<p>... {len(rows) - SHOWN:,} more rows: to_arrow()</p>" if len(rows) > SHOWN else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _short(value: Any) -> str:
    if isinstance(value, list):
        if len(value) <= FEW and not any(isinstance(each, list | Mapping) for each in value):
            return ", ".join(map(_short, value))
        return f"[{len(value):,}]"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_short(each)}" for key, each in value.items())
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)


def messages(record: Mapping[str, Any]) -> str:
    """What a user of a notebook must not miss: refused adapters, merges that failed, warnings."""
    refused = [f"{r.get('adapter')}: {r.get('reason')}" for r in _entries(record, "refused")]
    failed = [f"{f.get('merge')}: {f.get('message')}" for f in _entries(record, "failed")]
    told = record.get("warnings")
    warnings = [str(each) for each in told] if isinstance(told, list | tuple) else []
    return "".join(
        _message(f"{len(texts):,} {title}", texts)
        for title, texts in (
            ("refused", refused),
            ("failed", failed),
            ("warning" if len(warnings) == 1 else "warnings", warnings),
        )
        if texts
    )


def _entries(record: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    found = record.get(name)
    return [e for e in found if isinstance(e, Mapping)] if isinstance(found, list | tuple) else []


def _message(title: str, texts: Sequence[str]) -> str:
    items: Iterable[str] = (f"<li>{escape(text)}</li>" for text in texts[:SHOWN])
    more = f"<li>... {len(texts) - SHOWN:,} more</li>" if len(texts) > SHOWN else ""
    style = "border-left: 4px solid #b58900; padding-left: 0.8em"
    return f'<div style="{style}"><strong>{escape(title)}</strong><ul>{"".join(items)}{more}</ul></div>'


def table(caption: str, shown: Mapping[str, Any]) -> str:
    """An HTML table of names and values, for notebooks."""
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>"
        for name, value in shown.items()
    )
    return f"<table><caption>{escape(caption)}</caption>{rows}</table>"


def plain(value: Any) -> Any:
    """A value as JSON knows it; a record stays one."""
    if isinstance(value, Record):
        return value
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(each) for each in value]
    return value


def _json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _json(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_json(each) for each in value]
    return value


def _again(kind: type[Self], values: Mapping[str, Any]) -> Self:  # type: ignore[misc]
    return kind(**values)
