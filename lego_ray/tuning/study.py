"""A study as it is kept: what it is of, and a file a trial, each written whole and only once.

Files are created and never changed, which disks and S3 both do atomically. So whatever ends a run, the
study is what was tried until then, and the same command goes on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from lego_ray.errors import AlreadyExists, InvalidOption
from lego_ray.output.study_files import (
    STUDY_KEY,
    as_bytes,
    damaged,
    object_or_none,
    published_key,
    read_object,
    report_key,
    trial_files,
    trial_key,
)
from lego_ray.planning.recipe import canonical_json, digest_of
from lego_ray.scoring.score import Score, score_of
from lego_ray.storage.base import Store
from lego_ray.tuning.space import Choice

VERSION = 1
DONE, FAILED = "ok", "failed"


@dataclass(frozen=True, slots=True)
class Trial:
    """A trial that ended.

    Attributes:
        number: Its number, from 0.
        choice: What it merged by.
        status: `ok` or `failed`.
        score: What the scorer gave; None if it failed.
        value: What the objective makes of it; None if it failed.
        seconds: How long merging and scoring took.
        reason: Why it failed; empty if it did not.
    """

    number: int
    choice: Choice
    status: str
    score: Score | None
    value: float | None
    seconds: float
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        """As the study keeps it; rows of tasks are left out."""
        score = {} if self.score is None else self.score.as_json()
        return {
            "trial": self.number,
            "parameters": self.choice.as_json(),
            "status": self.status,
            "value": self.value,
            "score": score.get("score"),
            "tasks": score.get("tasks", {}),
            "seconds": self.seconds,
            "reason": self.reason,
        }


def trial_from(given: Mapping[str, Any]) -> Trial:
    """The trial that `as_json` gave these values of.

    Raises:
        KeyError: If a value is missing.
        TypeError: If a value is not of its kind.
    """
    is_done = given["status"] == DONE
    return Trial(
        int(given["trial"]),
        Choice(**given["parameters"]),
        DONE if is_done else FAILED,
        score_of({"score": given["score"], "tasks": given["tasks"]}, "study") if is_done else None,
        float(given["value"]) if is_done else None,
        float(given["seconds"]),
        str(given["reason"]),
    )


class Study:
    """The files of one study."""

    def __init__(self, store: Store, identity: Mapping[str, Any]) -> None:
        """Looks at nothing yet.

        Args:
            store: Where they are.
            identity: What it is of, as JSON values: adapters, recipe, space, scorer, objective, seed.
        """
        self._store = store
        self._identity = json.loads(canonical_json({"version": VERSION, **identity}))
        self.study_id = digest_of(self._identity)

    @property
    def uri(self) -> str:
        """Where it is."""
        return self._store.uri

    def begin(self) -> None:
        """Marks the place as this study's, or finds that it is.

        Raises:
            InvalidOption: If another study, or something else, is there.
        """
        try:
            self._store.create(STUDY_KEY, as_bytes(self._identity))
        except AlreadyExists:
            found = read_object(self._store, STUDY_KEY)
            if found == self._identity:
                return
            differ = sorted(
                key
                for key in {*found, *self._identity}
                if found.get(key) != self._identity.get(key)
            )
            raise InvalidOption(
                "--study",
                f"{self.uri} is another study: its {', '.join(differ)} differ",
                "Give another --study, or the options that it was begun with.",
            ) from None

    def trials(self) -> list[Trial]:
        """The trials that are kept, by number; there may be gaps.

        Raises:
            StorageError: If a file of one is damaged.
        """
        found = []
        for key in trial_files(self._store):
            given = read_object(self._store, key)
            try:
                found.append(trial_from(given))
            except (KeyError, TypeError, ValueError) as error:
                raise damaged(self._store, key, repr(error)) from error
        return sorted(found, key=lambda trial: trial.number)

    def keep(self, trial: Trial) -> None:
        """Keeps a trial. One of the same number that is there stays, such as another process's."""
        self._create(trial_key(trial.number), trial.as_json())

    def forget(self, trials: Sequence[Trial]) -> None:
        """Deletes trials, so that they are tried again."""
        for trial in trials:
            self._store.delete(trial_key(trial.number))

    def report(self, trials: int) -> dict[str, Any] | None:
        """What was kept by `keep_report` for so many trials, or None."""
        return object_or_none(self._store, report_key(trials))

    def keep_report(self, trials: int, value: Mapping[str, Any]) -> None:
        """Keeps the scores on rows that were held out; those that are there stay."""
        self._create(report_key(trials), value)

    def keep_published(self, merge_id: str, trials: int, best: Trial) -> None:
        """Keeps which merge was published as the best of so many trials."""
        value = {"merge_id": merge_id, "trials": trials, "best": best.number}
        self._create(published_key(merge_id), value)

    def _create(self, key: str, value: Mapping[str, Any]) -> None:
        with suppress(AlreadyExists):
            self._store.create(key, as_bytes(value))
