"""Waits for a Hub that is too busy, for as long as it says, with bounds, and says so."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import TypeVar

from lego_ray.journal import note

T = TypeVar("T")

RETRIES = 4
"""Tries after the first, 1, 2, 4 and 8 s apart, or after the waits that the Hub asks for."""

LONGEST_WAIT = 300
"""Seconds. The Hub counts requests over five minutes, and says when the next may come."""

BUSY = (408, 429, 500, 502, 503, 504)
TOO_MANY = (429,)
# A wait that is not worth a line.
_SHORT = 5


def patiently(
    call: Callable[[], T], *, writing: bool = False, where: str = "", busy: tuple[int, ...] = BUSY
) -> T:
    """Calls huggingface_hub, again while the Hub is too busy: it repeats some requests by itself.

    Args:
        call: Must be safe to repeat: to read, or to build on a commit that is named.
        writing: Whether to repeat it also when no answer came, which may mean that it was done.
        where: The place, named in the line about a wait.
        busy: The statuses that are waited for.
    """
    from huggingface_hub.errors import HfHubHTTPError

    from lego_ray.storage.hub_errors import is_network

    for number in range(RETRIES):
        wait = 2.0**number
        try:
            return call()
        except HfHubHTTPError as error:
            status = error.response.status_code
            if status not in busy:
                raise
            wait = min(max(wait, asked_to_wait(error.response.headers)), LONGEST_WAIT)
            _say(where, status, wait, number + 1)
        except Exception as error:
            if not (writing and is_network(error)):
                raise
        time.sleep(min(wait, LONGEST_WAIT))
    return call()


def asked_to_wait(headers: Mapping[str, str]) -> float:
    """Seconds until the Hub takes the next request, or 0 where it does not say.

    Args:
        headers: Of its answer.
    """
    limit = re.search(r"\br\s*=\s*0\s*;\s*t\s*=\s*(\d+)", headers.get("ratelimit", ""))
    after = _seconds(headers.get("retry-after", "").strip())
    # One more, as both are rounded.
    waits = [after, float(limit[1]) if limit else 0.0]
    return max((each + 1 for each in waits if each > 0), default=0.0)


def _seconds(after: str) -> float:
    """Seconds that `Retry-After` stands for: a number, or what is left until a date."""
    if re.fullmatch(r"\d+(\.\d+)?", after):
        return float(after)
    with suppress(ValueError, TypeError):
        return parsedate_to_datetime(after).timestamp() - time.time()
    return 0.0


def _say(where: str, status: int, seconds: float, number: int) -> None:
    """Says what is waited for, if it takes so long that a person would wonder."""
    if seconds < _SHORT:
        return
    what = "too many requests" if status == 429 else "it is too busy"
    said = f"the Hub answered {status}: {what}; the next try is in {seconds:.0f} s"
    note("waiting", "", logging.WARNING, where=where, reason=said, tries=f"{number} of {RETRIES}")
