"""What is raised, and how far one score is above another."""

from __future__ import annotations

import math

import pytest

from lego_ray.errors import InvalidOption, ScoringFailed
from lego_ray.scoring import Score
from lego_ray.tuning.objective import Objective

SCORE = Score(5.0, {"a": 1.0, "b": 3.0})


@pytest.mark.parametrize(
    ("objective", "value"),
    [
        (Objective(), 5.0),
        (Objective("mean"), 2.0),
        (Objective("min"), 1.0),
        (Objective("weighted", {"b": 3.0}), 2.5),
    ],
)
def test_values(objective: Objective, value: float) -> None:
    assert objective.value(SCORE) == value


@pytest.mark.parametrize("kind", ["mean", "min", "weighted"])
def test_without_tasks_only_the_score_can_be_raised(kind: str) -> None:
    with pytest.raises(ScoringFailed, match="gives no scores by task"):
        Objective(kind).value(Score(1.0, {}))


def test_a_weight_of_a_task_that_does_not_exist_is_a_failed_score() -> None:
    with pytest.raises(ScoringFailed, match="no score for task c"):
        Objective("weighted", {"c": 1.0}).value(SCORE)
    with pytest.raises(ScoringFailed, match="weight 0"):
        Objective("weighted", {"a": 0.0, "b": 0.0}).value(SCORE)


def test_weights_that_mean_nothing_are_bad_input() -> None:
    with pytest.raises(InvalidOption, match="--objective mean has no weights"):
        Objective("mean", {"a": 1.0})
    with pytest.raises(InvalidOption, match="a=-1 is below 0"):
        Objective("weighted", {"a": -1.0})


def test_an_error_over_rows_is_that_of_their_differences() -> None:
    one = Score(2.0, {"a": 2.0, "b": 2.0}, {"a": (1.0, 2.0, 3.0), "b": (1.0, 3.0)})
    other = Score(1.0, {"a": 1.0, "b": 1.0}, {"a": (1.0, 1.0, 1.0), "b": (0.0, 2.0)})
    found = Objective("mean").difference(one, other)
    assert found.difference == 1.0
    assert found.tasks["a"].error == pytest.approx(1 / math.sqrt(3))  # of 0, 1, 2
    assert found.tasks["b"].error == 0.0  # of 1, 1
    assert found.error == pytest.approx(1 / math.sqrt(3) / 2)
    assert Objective().difference(one, other).error == found.error  # the score is the mean
    weighted = Objective("weighted", {"a": 3.0}).difference(one, other)
    assert weighted.error == pytest.approx(0.75 / math.sqrt(3))


def test_without_rows_the_error_is_over_tasks() -> None:
    found = Objective("mean").difference(SCORE, Score(0.0, {"a": 0.0, "b": 0.0}))
    assert found.difference == 2.0
    assert found.error == pytest.approx(1.0)  # of 1 and 3
    assert [task.error for task in found.tasks.values()] == [None, None]


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        ("min", SCORE, SCORE),
        ("score", SCORE, SCORE),  # whose score is not the mean of its tasks
        ("score", Score(1.0, {}), Score(0.0, {})),
        ("mean", Score(1.0, {"a": 1.0}), Score(0.0, {"a": 0.0})),
    ],
)
def test_where_nothing_tells_the_error_there_is_none(kind: str, one: Score, other: Score) -> None:
    assert Objective(kind).difference(one, other).error is None
