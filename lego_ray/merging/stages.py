"""Where a run's time went, and which bytes moved, stage by stage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Stages:
    """Wall time and bytes of a run's stages, in the order they began; entered again, they add up.

    For the catalog alone: what a merge writes beside its weights has no clock in it, so that the same
    merge has the same bytes.
    """

    _seconds: dict[str, float] = field(default_factory=dict)
    _bytes: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Counts the wall time of the block, however it ends."""
        self._seconds.setdefault(stage, 0.0)
        started = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[stage] += time.perf_counter() - started

    def moved(self, stage: str, n_bytes: int) -> None:
        """Counts bytes that a stage read or wrote."""
        self._bytes[stage] = self._bytes.get(stage, 0) + n_bytes

    def copy(self) -> Stages:
        """The same so far, to go on with apart."""
        return Stages(dict(self._seconds), dict(self._bytes))

    def rows(self) -> list[dict[str, Any]]:
        """As values of the catalog's column `stages`."""
        return [
            {"stage": stage, "seconds": seconds, "bytes": self._bytes.get(stage, 0)}
            for stage, seconds in self._seconds.items()
        ]
