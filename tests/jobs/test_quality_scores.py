"""The quality benchmark's means and standard errors, against a plain loop."""

from __future__ import annotations

import math

import pytest

from jobs.quality.scores import score, task_means

ONE = {"spam": [1.0, 1, 0, 1], "tweets": [1.0, 0]}
TWO = {"spam": [1.0, 0, 0, 1], "tweets": [1.0, 1]}


def test_a_task_has_the_mean_of_its_rows() -> None:
    assert task_means(ONE) == {"spam": 0.75, "tweets": 0.5}


def test_a_score_is_the_mean_over_tasks_with_the_error_of_the_rows() -> None:
    spam, tweets = [1, 0.5, 0, 1], [1, 0.5]  # each row's mean over the two zoos
    squares = [
        sum((x - sum(rows) / len(rows)) ** 2 for x in rows) / (len(rows) - 1) / len(rows)
        for rows in (spam, tweets)
    ]
    found = score([ONE, TWO])
    assert found.mean == pytest.approx((0.625 + 0.75) / 2)
    assert found.error == pytest.approx(math.sqrt(sum(squares)) / 2)


def test_a_difference_to_itself_is_none_and_exact() -> None:
    found = score([ONE, TWO], [ONE, TWO])
    assert (found.mean, found.error) == (0, 0)


def test_a_paired_difference_sees_only_the_rows_that_differ() -> None:
    found = score([ONE], [TWO])
    assert found.mean == pytest.approx((0.25 - 0.5) / 2)
    assert found.error == pytest.approx(math.sqrt(0.25 / 4 + 0.5 / 2) / 2)
