"""A study as it is kept: what it is of, and a file a trial, each written whole and only once.

Files are created and never changed, which disks and S3 both do atomically. So whatever ends a run, the
study is what was tried until then, and the same command goes on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lego_ray.errors import AlreadyExists, InvalidOption, ObjectNotFound, StorageError
from lego_ray.planning.recipe import canonical_json, digest_of
from lego_ray.scoring.score import Score, score_of
from lego_ray.storage.base import Store, list_readable
from lego_ray.tuning.space import Choice

STUDY_KEY = "study.json"
VERSION = 1
DONE, FAILED = "ok", "failed"
_TRIAL = re.compile(r"trials/(\d{6})\.json")


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
        text = json.dumps(self._identity, indent=1).encode()
        try:
            self._store.create(STUDY_KEY, text)
        except AlreadyExists:
            found = self._read(STUDY_KEY)
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
        for info in list_readable(self._store):
            if _TRIAL.fullmatch(info.key):
                given = self._read(info.key)
                try:
                    found.append(trial_from(given))
                except (KeyError, TypeError, ValueError) as error:
                    raise self._damaged(info.key, repr(error)) from error
        return sorted(found, key=lambda trial: trial.number)

    def keep(self, trial: Trial) -> None:
        """Keeps a trial. One of the same number that is there stays, such as another process's."""
        try:
            text = json.dumps(trial.as_json(), indent=1).encode()
            self._store.create(_key(trial.number), text)
        except AlreadyExists:
            return

    def forget(self, trials: Sequence[Trial]) -> None:
        """Deletes trials, so that they are tried again."""
        for trial in trials:
            self._store.delete(_key(trial.number))

    def report(self, name: str) -> dict[str, Any] | None:
        """What was kept under a name by `keep_report`, or None."""
        try:
            return self._read(f"{name}.json")
        except ObjectNotFound:
            return None

    def keep_report(self, name: str, value: Mapping[str, Any]) -> None:
        """Keeps a value under a name; one that is there stays."""
        try:
            self._store.create(f"{name}.json", json.dumps(value, indent=1).encode())
        except AlreadyExists:
            return

    def _read(self, key: str) -> dict[str, Any]:
        data = self._store.read(key)
        try:
            found = json.loads(data)
        except ValueError as error:
            raise self._damaged(key, str(error)) from error
        if not isinstance(found, dict):
            raise self._damaged(key, "it is not a JSON object")
        return found

    def _damaged(self, key: str, problem: str) -> StorageError:
        return StorageError(
            f"{self._store.uri}/{key}",
            f"this file of the study is damaged ({problem})",
            "Delete it: its trial is then run again.",
        )


def _key(number: int) -> str:
    return f"trials/{number:06d}.json"
