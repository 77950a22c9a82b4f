"""The study that a merge is the best of: its trials, and its scores on rows that were held out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lego_ray.errors import InvalidOption, StorageError
from lego_ray.output.study_files import (
    BESIDE,
    STUDY_KEY,
    damaged,
    has_published,
    last_report,
    object_or_none,
    published_key,
    read_object,
    report_key,
    trial_files,
)
from lego_ray.storage.base import Store
from lego_ray.storage.places import Place


@dataclass(frozen=True, slots=True)
class TrialFacts:
    """A trial.

    Attributes:
        number: Its number, from 0.
        parameters: What it merged by: `preset`, `rank`, `scale`, `spectrum` and `weights`.
        value: What the objective makes of its score; None if it failed.
        tasks: Its score by task.
        reason: Why it failed; empty if it did not.
    """

    number: int
    parameters: Mapping[str, Any]
    value: float | None
    tasks: Mapping[str, float]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class StudyFacts:
    """What a study says.

    Attributes:
        place: Where it is.
        trials: Its trials by number, those that the merge is the best of.
        objective: What was raised: `score`, `mean`, `min` or `weighted`.
        weights: Weight of tasks by name, if the objective has them.
        scores: On the rows held out, of `best` and of presets: `value` and `tasks`, or `reason`.
        differences: From the best to each preset: `difference`, `error` and `tasks`.
        is_held_out: Whether these are other rows than those that trials were chosen by.
    """

    place: str
    trials: Sequence[TrialFacts]
    objective: str
    weights: Mapping[str, float] = field(default_factory=dict)
    scores: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    differences: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    is_held_out: bool = True

    @property
    def done(self) -> list[TrialFacts]:
        """The trials that have a value."""
        return [trial for trial in self.trials if trial.value is not None]

    @property
    def best(self) -> TrialFacts:
        """The best trial, of equal ones the first."""
        return max(self.done, key=lambda trial: (trial.value or 0.0, -trial.number))


def study_of(merged: Place, merge_id: str, given: Place | None) -> StudyFacts | None:
    """The study that a merge is the best of.

    Args:
        merged: Where the merge is.
        merge_id: Its identity.
        given: Where the study is; None to look where `tune` puts it, beside the merge.

    Returns:
        None if none was given and there is none.

    Raises:
        InvalidOption: If one was given, and the merge is not of it.
        StorageError: If it cannot be read.
    """
    beside = merged.split()
    if given is None and (beside is None or merged.is_read_only):
        return None
    place = given or beside[0].join(f"{beside[1]}{BESIDE}")  # type: ignore[index]
    store = place.open()
    identity = object_or_none(store, STUDY_KEY)
    published = object_or_none(store, published_key(merge_id)) if identity else None
    if identity is None or (published is None and has_published(store)):
        if given is None:
            return None
        problem = "is not a study of lego-ray tune" if identity is None else "made other merges"
        raise InvalidOption(
            "--study", f"{place} {problem}", "Give the study of this merge, or none."
        )
    # One of a release that did not write down which merge is of it.
    count = published["trials"] if published else last_report(store)
    found = [_trial(store, key) for key in trial_files(store)]
    trials = sorted(
        (trial for trial in found if count is None or trial.number < count), key=lambda t: t.number
    )
    if not any(trial.value is not None for trial in trials):
        return None
    report = object_or_none(store, report_key(count)) if count is not None else None
    return _facts(str(place), identity, trials, report or {})


def _facts(
    place: str,
    identity: Mapping[str, Any],
    trials: Sequence[TrialFacts],
    report: Mapping[str, Any],
) -> StudyFacts:
    objective = identity.get("objective") or {}
    return StudyFacts(
        place,
        trials,
        str(objective.get("kind", "score")),
        objective.get("weights") or {},
        report.get("scores") or {},
        report.get("differences") or {},
        bool(report.get("is_held_out", True)),
    )


def _trial(store: Store, key: str) -> TrialFacts:
    """A trial out of its file.

    Raises:
        StorageError: If it is damaged.
    """
    given = read_object(store, key)
    try:
        value = None if given["value"] is None else float(given["value"])
        tasks = {str(name): float(score) for name, score in given["tasks"].items()}
        if not all(map(math.isfinite, (value or 0.0, *tasks.values()))):
            raise ValueError("a score is not finite")
        return TrialFacts(
            int(given["trial"]), dict(given["parameters"]), value, tasks, str(given["reason"])
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise damaged(store, key, repr(error)) from error


def study_or_warning(
    merged: Place, merge_id: str, given: Place | None
) -> tuple[StudyFacts | None, list[str]]:
    """As `study_of`; one that was not asked for and cannot be read is a warning."""
    try:
        return study_of(merged, merge_id, given), []
    except StorageError as error:
        if given is not None:
            raise
        return None, [f"The study was not read: {error.where}: {error.problem.rstrip('.')}."]
