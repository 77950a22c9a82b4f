"""Durations as users write them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from lego_ray.catalog.upkeep.durations import SHORTEST, check_long_enough, parse_duration
from lego_ray.errors import InvalidOption


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("7d", timedelta(days=7)),
        (" 36 h ", timedelta(hours=36)),
        ("90m", timedelta(minutes=90)),
        ("0h", timedelta(0)),
        (timedelta(seconds=5), timedelta(seconds=5)),
    ],
)
def test_durations_are_read(given: str | timedelta, meant: timedelta) -> None:
    assert parse_duration("--x", given) == meant


@pytest.mark.parametrize("given", ["", "7", "d", "-1d", "1.5d", "7 weeks", timedelta(hours=-1)])
def test_what_is_none_is_refused(given: str | timedelta) -> None:
    with pytest.raises(InvalidOption, match="--x"):
        parse_duration("--x", given)


def test_a_short_one_must_be_meant() -> None:
    check_long_enough("--x", SHORTEST, force=False)
    check_long_enough("--x", timedelta(0), force=True)
    with pytest.raises(InvalidOption, match="--force"):
        check_long_enough("--x", SHORTEST - timedelta(seconds=1), force=False)
