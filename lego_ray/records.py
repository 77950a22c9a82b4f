"""What calls return: frozen records that are dictionaries too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from html import escape
from typing import Any, NoReturn, Self


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
        """A table, for notebooks."""
        return table(*self._shown())

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
