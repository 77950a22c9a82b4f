"""From a value a row to a mean over tasks and its standard error."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Rows = Mapping[str, Sequence[float]]  # for each task, a value a row: right or wrong, likelihood


@dataclass(frozen=True)
class Score:
    """A mean over tasks, and its standard error over the tasks' rows."""

    mean: float
    error: float


def task_means(values: Rows) -> dict[str, float]:
    """The mean over the rows, by task."""
    return {task: sum(row) / len(row) for task, row in values.items()}


def score(zoos: Sequence[Rows], against: Sequence[Rows] = ()) -> Score:
    """The mean over tasks and zoos, or its difference to another merge of the same zoos.

    The zoos share their rows, so a row's mean over zoos is one observation; tasks are independent:
    the squared error of the mean over T tasks is the sum of var_t / n_t over T squared. It is of the
    rows drawn, the zoos as given; how zoos differ is shown by their own figures.

    Args:
        zoos: The values, zoo by zoo.
        against: Those of another merge: the error is of the paired difference then.
    """
    means, squares = [], []
    for task in zoos[0]:
        rows = np.mean([zoo[task] for zoo in zoos], axis=0)
        if against:
            rows = rows - np.mean([zoo[task] for zoo in against], axis=0)
        means.append(float(rows.mean()))
        squares.append(float(rows.var(ddof=1)) / len(rows))
    return Score(sum(means) / len(means), math.sqrt(sum(squares)) / len(means))
