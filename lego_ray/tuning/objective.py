"""What a search raises, and how far one score is above another, with its error."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from lego_ray.errors import InvalidOption, ScoringFailed
from lego_ray.scoring.score import Score
from lego_ray.tuning.options import LEAST, MEAN, SCORE, WEIGHTED

_FLAG = "--task-weight"
# Two scorers' means of the same numbers differ by less.
_SAME = 1e-9


@dataclass(frozen=True, slots=True)
class Objective:
    """What a search raises.

    Attributes:
        kind: `score`, `mean`, `min` or `weighted`; see `SearchOptions`.
        weights: Weight of tasks by name, for `weighted`; 1 for those not named.
    """

    kind: str = SCORE
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.weights and self.kind != WEIGHTED:
            raise InvalidOption(
                _FLAG, f"--objective {self.kind} has no weights", "Give --objective weighted."
            )
        bad = [f"{name}={w:g}" for name, w in self.weights.items() if w < 0]
        if bad:
            raise InvalidOption(_FLAG, f"{', '.join(bad)} is below 0")

    def value(self, score: Score) -> float:
        """The number to raise, of a score.

        Raises:
            ScoringFailed: If it needs scores by task, and the scorer gives none or lacks a task that a
                weight names.
        """
        if self.kind == SCORE:
            return score.value
        if not score.tasks:
            raise ScoringFailed(
                "the scorer",
                f"it gives no scores by task, which --objective {self.kind} needs",
                'Print {"score": .., "tasks": {"NAME": ..}}, or use --objective score.',
            )
        if self.kind == LEAST:
            return min(score.tasks.values())
        shares = self._shares(score)
        return sum(shares[name] * value for name, value in score.tasks.items())

    def _shares(self, score: Score) -> dict[str, float]:
        """The share of each task in the mean."""
        unknown = [name for name in self.weights if name not in score.tasks]
        if unknown:
            raise ScoringFailed(
                "the scorer",
                f"it gives no score for task {unknown[0]}, which {_FLAG} names",
                f"Its tasks are {', '.join(score.tasks)}.",
            )
        weights = {name: self.weights.get(name, 1.0) for name in score.tasks}
        total = sum(weights.values())
        if not total:
            raise ScoringFailed("the scorer", "all of its tasks have weight 0")
        return {name: weight / total for name, weight in weights.items()}

    def difference(self, one: Score, other: Score) -> Difference:
        """How far one score is above another of the same rows.

        Args:
            one: A score.
            other: The score of another adapter.
        """
        names = [name for name in one.tasks if name in other.tasks]
        tasks = {
            name: TaskDifference(one.tasks[name] - other.tasks[name], _of_rows(one, other, name))
            for name in names
        }
        return Difference(
            self.value(one) - self.value(other), self._error(one, other, tasks), tasks
        )

    def _error(self, one: Score, other: Score, tasks: Mapping[str, TaskDifference]) -> float | None:
        """The standard error of the difference: from rows, or else from how tasks differ."""
        is_mean = self.kind in (MEAN, WEIGHTED) or (
            self.kind == SCORE and all(_is_mean_of_tasks(score) for score in (one, other))
        )
        if not is_mean or len(tasks) != len(one.tasks) or len(tasks) != len(other.tasks):
            return None
        shares = self._shares(one)
        errors = [tasks[name].error for name in tasks]
        if all(error is not None for error in errors):
            return math.sqrt(sum((shares[n] * (tasks[n].error or 0.0)) ** 2 for n in tasks))
        if self.kind == WEIGHTED or len(tasks) < 2:
            return None
        return stdev(task.difference for task in tasks.values()) / math.sqrt(len(tasks))


@dataclass(frozen=True, slots=True)
class TaskDifference:
    """A difference of two scores of a task, and its standard error, None where rows are not known."""

    difference: float
    error: float | None

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"difference": self.difference, "error": self.error}


@dataclass(frozen=True, slots=True)
class Difference:
    """How far one score is above another of the same rows.

    Attributes:
        difference: Of the objective.
        error: Its standard error over rows or, if rows are not known, over tasks; None where neither
            allows it.
        tasks: The same by task.
    """

    difference: float
    error: float | None
    tasks: Mapping[str, TaskDifference]

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        tasks = {name: each.as_json() for name, each in self.tasks.items()}
        return {"difference": self.difference, "error": self.error, "tasks": tasks}


def _is_mean_of_tasks(score: Score) -> bool:
    values = list(score.tasks.values())
    return bool(values) and math.isclose(score.value, fmean(values), rel_tol=_SAME, abs_tol=_SAME)


def _of_rows(one: Score, other: Score, task: str) -> float | None:
    """Standard error of a task's difference, row by row; None if the rows are not the same number."""
    mine: Sequence[float] = one.rows.get(task, ())
    theirs: Sequence[float] = other.rows.get(task, ())
    if len(mine) != len(theirs) or len(mine) < 2:
        return None
    return stdev(a - b for a, b in zip(mine, theirs, strict=True)) / math.sqrt(len(mine))
