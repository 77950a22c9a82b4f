"""The most that one scan may list and read: a place too large ends in an error, not in a long wait.

A scan that reaches a limit fails: it never takes a part of a zoo for the whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches

from lego_ray.errors import InvalidOption

FLAG = "--scan-limit"


@dataclass(frozen=True, slots=True)
class ScanLimits:
    """What one scan may list and read, over all of its sources.

    The defaults are twice what the largest zoo we test takes: 100,000 adapters, each with ten files
    beside it and 200 KB of headers and samples.

    Attributes:
        adapters: Files and directories that may be an adapter, those left out by name not counted.
        objects: Files listed, of any kind.
        bytes: Bytes of headers, configurations and samples read.
    """

    adapters: int = 200_000
    objects: int = 2_000_000
    bytes: int = 50_000_000_000

    def __str__(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in asdict(self).items())


DEFAULT_LIMITS = ScanLimits()
# For scans of places that lego-ray's own records name.
NO_LIMITS = ScanLimits(*(2**63 - 1,) * 3)
LIMITS = tuple(each.name for each in fields(ScanLimits))


def checked_limits(given: Mapping[str, float] | None) -> ScanLimits:
    """The limits of a scan: those given, and the defaults of the others.

    Args:
        given: A number by the name of a limit; None for none.

    Raises:
        InvalidOption: If a name is not that of a limit, or a number is not a whole number of at least 1.
    """
    wanted: dict[str, int] = {}
    for name, value in (given or {}).items():
        if name not in LIMITS:
            near = get_close_matches(name, LIMITS, n=1)
            hint = f"Did you mean {near[0]}?" if near else "For example objects=5000000."
            raise InvalidOption(FLAG, f"{name!r} is not one of {', '.join(LIMITS)}", hint)
        if value < 1 or value != int(value):
            raise InvalidOption(
                FLAG,
                f"{name}={value:g} is not a whole number of at least 1",
                f"The defaults are {DEFAULT_LIMITS}.",
            )
        wanted[name] = int(value)
    return ScanLimits(**wanted)
