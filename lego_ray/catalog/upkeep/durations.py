"""How long something is kept: what a user writes, and the shortest that is safe."""

from __future__ import annotations

import re
from datetime import timedelta

from lego_ray.errors import InvalidOption

# What was replaced or left behind is kept for this long: Delta Lake's own default.
KEPT = timedelta(days=7)
# No query, commit or task of a merge takes longer. Only who knows that nobody is at it may go below.
SHORTEST = timedelta(days=1)

_UNITS = {
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}


def parse_duration(option: str, given: str | timedelta) -> timedelta:
    """Reads a duration: a number of days, hours, minutes or seconds such as `7d`, `36h` or `90m`.

    Args:
        option: Its name, for the error.
        given: As text, or as it is.

    Raises:
        InvalidOption: If it is neither, or negative.
    """
    if isinstance(given, timedelta):
        if given < timedelta(0):
            raise InvalidOption(option, f"{given} is negative")
        return given
    match = re.fullmatch(r"\s*(\d{1,6})\s*([smhd])\s*", given)
    if match is None:
        raise InvalidOption(
            option, f"{given!r} is not a duration", "Write it as 7d, 36h, 90m or 30s."
        )
    return int(match[1]) * _UNITS[match[2]]


def parse_time_limit(option: str, given: str | timedelta) -> float:
    """Reads the longest that something may take, in seconds.

    Args:
        option: Its name, for the error.
        given: A duration, as `parse_duration` reads it.

    Raises:
        InvalidOption: If it is not a duration above zero.
    """
    seconds = parse_duration(option, given).total_seconds()
    if not seconds:
        raise InvalidOption(option, "it is zero", "Give a time such as 60s or 5m.")
    return seconds


def check_long_enough(option: str, duration: timedelta, force: bool) -> None:
    """Refuses a duration within which others may still be at what would be removed.

    Args:
        option: The flag, for the error.
        duration: What it was given.
        force: Whether a shorter one is meant.

    Raises:
        InvalidOption: If it is shorter than `SHORTEST` and not forced.
    """
    if duration < SHORTEST and not force:
        raise InvalidOption(
            option,
            f"it is shorter than {SHORTEST / timedelta(hours=1):.0f} hours, so files that "
            "are in use may be removed",
            "Give a longer one, or --force if nobody uses the catalog now.",
        )
