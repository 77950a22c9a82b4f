"""The files of a study of `tune`: what it is of, one for each trial, and what came of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from lego_ray.errors import ObjectNotFound, StorageError
from lego_ray.storage.base import Store, list_readable

STUDY_KEY = "study.json"
# A study is beside the merge that it publishes, unless another place is named.
BESIDE = "-study"
_TRIAL = re.compile(r"trials/(\d{6})\.json")
_REPORT = re.compile(r"report-(\d{6})\.json")


def trial_key(number: int) -> str:
    """The file of a trial.

    Args:
        number: Its number, from 0.
    """
    return f"trials/{number:06d}.json"


def report_key(trials: int) -> str:
    """The file of the scores on rows that were held out.

    Args:
        trials: How many trials the best was chosen of.
    """
    return f"report-{trials:06d}.json"


def published_key(merge_id: str) -> str:
    """The file that says of which trials a merge is the best.

    Args:
        merge_id: The merge's.
    """
    return f"published/{merge_id}.json"


def trial_files(store: Store) -> Iterator[str]:
    """Keys of the trials that are kept, in no order."""
    return (info.key for info in list_readable(store) if _TRIAL.fullmatch(info.key))


def last_report(store: Store) -> int | None:
    """The most trials that scores on rows held out are kept for; None if there are no such scores."""
    found = (_REPORT.fullmatch(info.key) for info in list_readable(store))
    return max((int(match[1]) for match in found if match), default=None)


def has_published(store: Store) -> bool:
    """Whether a study says which merges were published of it; those of earlier releases do not."""
    return any(info.key.startswith("published/") for info in list_readable(store))


def read_object(store: Store, key: str) -> dict[str, Any]:
    """The content of a file.

    Args:
        store: The study.
        key: The file.

    Raises:
        ObjectNotFound: If it does not exist.
        StorageError: If it is damaged.
    """
    data = store.read(key)
    try:
        found = json.loads(data)
    except ValueError as error:
        raise damaged(store, key, str(error)) from error
    if not isinstance(found, dict):
        raise damaged(store, key, "it is not a JSON object")
    return found


def object_or_none(store: Store, key: str) -> dict[str, Any] | None:
    """The content of a file, or None if it does not exist.

    Raises:
        StorageError: If it is damaged.
    """
    try:
        return read_object(store, key)
    except ObjectNotFound:
        return None


def as_bytes(value: Mapping[str, Any]) -> bytes:
    """A file's content as it is written."""
    return json.dumps(value, indent=1).encode()


def damaged(store: Store, key: str, problem: str) -> StorageError:
    """The error of a file that is not as `tune` writes it."""
    return StorageError(
        f"{store.uri}/{key}",
        f"this file of the study is damaged ({problem})",
        "Delete it: its trial is then run again.",
    )
