"""Who makes the trials: this process, one after another, or workers of a runner beside each other."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from lego_ray.errors import LegoRayError
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


class RayCrew:
    """Actors on Ray, each with its own scorer and its own copy of the adapters' tensors."""

    def __init__(self, maker: TrialMaker, *, address: str, workers: int | None) -> None:
        """Brings them up; see `RayMakers`.

        Raises:
            BadInput: If Ray cannot be started or reached.
        """
        from lego_ray.runners.ray.makers import RayMakers

        # Ray reserves one CPU for each.
        self._makers = RayMakers(
            replace(maker, threads=1), address=address, workers=workers, gpus=maker.gpus
        )
        self.size = self._makers.size

    def replies(self, requests: Sequence[TrialRequest]) -> Iterator[TrialReply]:
        """Yields what became of each request when it ends; one that cost its worker has failed."""
        started = time.perf_counter()
        for request, reply in self._makers.replies(requests):
            if isinstance(reply, LegoRayError):
                seconds = round(time.perf_counter() - started, 3)
                reason = f"{type(reply).__name__}: {reply}"
                yield TrialReply(request.number, None, seconds, reason)
            else:
                yield reply

    def close(self) -> None:
        """Ends the actors, and Ray if it was started here."""
        self._makers.close()
