"""What a scorer says of one adapter."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from lego_ray.errors import ScoringFailed

_FORM = '{"score": NUMBER, "tasks": {"NAME": NUMBER, ...}}'
_HINT = f"A scorer gives {_FORM}, where larger is better and tasks may be left out."


@dataclass(frozen=True, slots=True)
class Score:
    """The score of one adapter; larger is better.

    Attributes:
        value: The score.
        tasks: The score of each task, by name; empty if the scorer knows no tasks.
        rows: The score of each row of a task, by the task's name, where the scorer gives them: two
            adapters that were scored on the same rows are then compared row by row.
    """

    value: float
    tasks: Mapping[str, float]
    rows: Mapping[str, tuple[float, ...]] = field(default_factory=lambda: MappingProxyType({}))

    def as_json(self) -> dict[str, Any]:
        """The score as a scorer gives it."""
        rows = {"rows": {name: list(row) for name, row in self.rows.items()}} if self.rows else {}
        return {"score": self.value, "tasks": dict(self.tasks), **rows}


def score_of(given: object, where: str) -> Score:
    """Reads what a scorer gave: a number, a `Score`, or a mapping with `score`, `tasks` and `rows`.

    Args:
        given: What it gave.
        where: The scorer, for errors.

    Raises:
        ScoringFailed: If it is something else, or a number is NaN or infinite.
    """
    if isinstance(given, Score):
        given = given.as_json()
    if not isinstance(given, Mapping):
        return Score(_number(given, "the score", where), {})
    if "score" not in given:
        raise ScoringFailed(where, "its result has no score", _HINT)
    tasks, rows = given.get("tasks") or {}, given.get("rows") or {}
    for name, value in (("tasks", tasks), ("rows", rows)):
        if not isinstance(value, Mapping):
            raise ScoringFailed(where, f"{name} of its result is not a mapping of names", _HINT)
    return Score(
        _number(given["score"], "the score", where),
        {
            str(name): _number(value, f"the score of task {name}", where)
            for name, value in tasks.items()
        },
        {str(name): _row(value, f"a row of task {name}", where) for name, value in rows.items()},
    )


def last_json_score(text: str, where: str) -> Score:
    """The score in the last line of a text that is a JSON object with `score`.

    Args:
        text: What a scorer printed.
        where: The scorer, for errors.

    Raises:
        ScoringFailed: If no line is one, or its score is not a finite number.
    """
    for line in reversed(text.splitlines()):
        if not line.lstrip().startswith("{"):
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict) and "score" in found:
            return score_of(found, where)
    raise ScoringFailed(
        where,
        "it ended with exit status 0 and printed no line with a score",
        f"Print one line of JSON on standard output: {_FORM}. Larger is better; tasks may be left out.",
    )


def _row(value: object, what: str, where: str) -> tuple[float, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ScoringFailed(where, f"{what} is not a list of numbers", _HINT)
    return tuple(_number(each, what, where) for each in value)


def _number(value: object, what: str, where: str) -> float:
    try:
        if isinstance(value, bool | str | bytes) or value is None:
            raise TypeError
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise ScoringFailed(where, f"{what} is {value!r:.80}, not a number", _HINT) from None
    if not math.isfinite(number):
        raise ScoringFailed(where, f"{what} is {number}, not a finite number", _HINT)
    return number
