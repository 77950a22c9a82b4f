"""The winner on rows that no trial was chosen by, beside the presets that need no search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lego_ray.errors import ScoringFailed
from lego_ray.scoring.rows import REPORT
from lego_ray.scoring.score import Score
from lego_ray.tuning.crew import Crew
from lego_ray.tuning.objective import Objective
from lego_ray.tuning.space import Choice
from lego_ray.tuning.study import Trial
from lego_ray.tuning.trial import TrialRequest

BEST = "best"
COMPARED = ("adaptive", "paper")


@dataclass(frozen=True, slots=True)
class Report:
    """Scores on the rows that were held out.

    Attributes:
        scores: Of `best` and each of `COMPARED`, as `TuneRecord.report` has them.
        differences: From `best` to each of `COMPARED`, as `TuneRecord.differences` has them.
        is_held_out: False if all scores are those on the rows that trials were chosen by.
        bytes_read: Bytes that were read for it.
    """

    scores: Mapping[str, Mapping[str, Any]]
    differences: Mapping[str, Mapping[str, Any]]
    is_held_out: bool
    bytes_read: int = 0

    def as_json(self) -> dict[str, Any]:
        """As a study keeps it."""
        return {
            "scores": self.scores,
            "differences": self.differences,
            "is_held_out": self.is_held_out,
        }


def report_of(best: Trial, tried: list[Trial], crew: Crew, objective: Objective) -> Report:
    """Scores the best trial and the presets on the rows that were held out.

    Args:
        best: The best trial.
        tried: All trials: where one is a preset as it is, its score on the other rows is known.
        crew: What makes and scores them.
        objective: What was raised.
    """
    choices = {
        BEST: best.choice,
        **{name: Choice(name, best.choice.rank) for name in COMPARED},
    }
    distinct: list[Choice] = []
    for choice in choices.values():
        if choice not in distinct:
            distinct.append(choice)
    asked = [TrialRequest(number, choice, REPORT) for number, choice in enumerate(distinct)]
    replies = {reply.number: reply for reply in crew.replies(asked)}
    scores: dict[str, Mapping[str, Any]] = {}
    found: dict[str, Score] = {}
    for name, choice in choices.items():
        reply = replies[distinct.index(choice)]
        if reply.score is None:
            scores[name] = {"reason": reply.reason}
            continue
        try:
            value = objective.value(reply.score)
        except ScoringFailed as error:
            scores[name] = {"reason": str(error)}
            continue
        found[name] = reply.score
        tasks = dict(reply.score.tasks)
        scores[name] = {"value": value, "score": reply.score.value, "tasks": tasks}
    differences = {
        name: objective.difference(found[BEST], found[name]).as_json()
        for name in COMPARED
        if BEST in found and name in found
    }
    return Report(
        scores,
        differences,
        _is_held_out(choices, found, tried),
        sum(reply.bytes_read for reply in replies.values()),
    )


def _is_held_out(
    choices: Mapping[str, Choice], found: Mapping[str, Score], tried: list[Trial]
) -> bool:
    """Whether a score is another than on the rows that trials were chosen by."""
    before = {
        name: trial.score
        for trial in tried
        for name, choice in choices.items()
        if trial.score is not None and trial.choice == choice
    }
    known = [name for name in found if name in before]
    return not known or any(
        (found[name].value, found[name].tasks) != (before[name].value, before[name].tasks)
        for name in known
    )
