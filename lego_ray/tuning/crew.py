"""Who makes the trials: this process, one after another, or workers of a runner beside each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from lego_ray.tuning.trial import TrialMaker, TrialReply, TrialRequest


class Crew(Protocol):
    """Makes trials.

    Attributes:
        size: How many at once.
    """

    size: int

    def replies(self, requests: Sequence[TrialRequest]) -> Iterator[TrialReply]:
        """Yields what became of each request when it ends, in any order."""

    def close(self) -> None:
        """Ends what was started."""


class LoneCrew:
    """This process: the serial twin of any other crew."""

    size = 1

    def __init__(self, maker: TrialMaker) -> None:
        """Takes what makes the trials."""
        self._maker = maker

    def replies(self, requests: Sequence[TrialRequest]) -> Iterator[TrialReply]:
        """Yields what became of each request, in order."""
        for request in requests:
            yield self._maker.reply(request)

    def close(self) -> None:
        """Ends what the scorer started."""
        self._maker.close()
