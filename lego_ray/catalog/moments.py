"""A table as it was at some time."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from pyarrow import fs

from lego_ray.catalog.commits import commits_of
from lego_ray.catalog.upkeep.durations import parse_duration
from lego_ray.errors import CatalogError, CatalogNotFound, InvalidOption

if TYPE_CHECKING:
    from deltalake import DeltaTable

_KEPT = (
    "Delta Lake keeps a table's log for 30 days, and vacuum what it replaced for as long as it was "
    "told to; ask for a later time."
)
# By how much the clocks of two writers may differ, in milliseconds.
_CLOCKS = 10 * 60 * 1000
_AGO = re.compile(r"(\d{1,6}\s*[smhd])(?:\s+ago)?")


def parse_moment(text: str, option: str = "--at") -> datetime:
    """Reads a time: ISO 8601 such as `2026-11-24T10:00Z`, or how long ago it was.

    A time that names no zone is in UTC. `2d` and `2d ago` are two days before now,
    `yesterday` is one, and `now` is now.

    Args:
        text: The time.
        option: The flag, for errors.

    Raises:
        InvalidOption: If it is none, or to come.
    """
    words = text.strip().lower()
    if words in ("now", "yesterday"):
        return datetime.now(UTC) - timedelta(days=words == "yesterday")
    if ago := _AGO.fullmatch(words):
        return datetime.now(UTC) - parse_duration(option, ago[1])
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise InvalidOption(
            option,
            f"{text!r} is not a valid time",
            "Write it as 2026-11-24T10:00Z, 2d (two days ago) or yesterday.",
        ) from error
    return past(moment, option)


def past(moment: datetime, option: str = "--at") -> datetime:
    """A moment in UTC, where it is one when a catalog can have been.

    Args:
        moment: The moment; in UTC if it names no zone.
        option: The flag, for errors.

    Raises:
        InvalidOption: If it is to come: what will be in a catalog then is not known.
    """
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    if moment > datetime.now(UTC):
        raise InvalidOption(
            option, f"{moment.isoformat()} is in the future", f"Leave {option} out for now."
        )
    return moment


def travel(uri: str, handle: DeltaTable, moment: datetime) -> None:
    """Takes a table back to its last commit at or before a moment, by the writers' clocks.

    Args:
        uri: The table's, for errors.
        handle: The table; left at its state of the moment.
        moment: In UTC.

    Raises:
        CatalogNotFound: If there was no such table yet.
        CatalogError: If its log does not go back that far.
    """
    # Where two clocks disagree, a commit counts as no earlier than the one before it.
    earliest: int | None = None
    found: int | None = None
    latest_time = 0
    asked = _milliseconds(moment)
    for commit in reversed(commits_of(handle, asked - _CLOCKS)):
        earliest = commit["version"] if earliest is None else earliest
        latest_time = max(latest_time, int(commit.get("timestamp", 0)))
        if latest_time <= asked:
            found = commit["version"]
    if found is not None:
        handle.load_as_version(found)
    elif earliest == 0:
        raise CatalogNotFound(
            uri, f"the table did not exist at {moment.isoformat()}", "Ask for a later time."
        )
    else:
        raise CatalogError(uri, f"its log does not go back to {moment.isoformat()}", _KEPT)


def _milliseconds(moment: datetime) -> int:
    """A moment as commits are dated."""
    return (moment - datetime.fromtimestamp(0, UTC)) // timedelta(milliseconds=1)


def check_files(
    uri: str, handle: DeltaTable, files: fs.FileSystem | None, moment: datetime
) -> None:
    """Makes sure the data of a former state is still there, for a reader's own error would not say why.

    Args:
        uri: The table's, for the error.
        handle: The table in that state.
        files: Where its data lies; None where that cannot be looked at.
        moment: The time asked about, for the error.

    Raises:
        CatalogError: If a vacuum took some of it away.
    """
    if files is None:
        return
    names = list(handle.get_add_actions().column("path").to_pylist())
    if any(info.type == fs.FileType.NotFound for info in files.get_file_info(names)):
        raise CatalogError(
            uri, f"files of its state at {moment.isoformat()} were removed by a vacuum", _KEPT
        )
