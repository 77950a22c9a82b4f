"""Merges of a zoo and what their adapters can do, both kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lego_ray
from jobs.fixtures.train import FixtureAdapter
from jobs.quality.candidates import Candidate
from jobs.quality.evaluations import Evaluations, Values
from jobs.quality.folding import read_factors
from jobs.quality.zoos import Zoo

Pending = Future[Values]


@dataclass(frozen=True)
class Merged:
    """A merge of one zoo.

    Attributes:
        digest: Its plan's digest.
        folder: Where the adapter is.
        unit: Factor that makes its update as long as the sources' in root mean square.
    """

    digest: str
    folder: Path
    unit: float


class Study:
    """Merges and evaluates, keeping both.

    Args:
        folder: Where the adapters are, and merges are kept.
        evaluations: Evaluates.
        rows: Most rows of a task, by split.
    """

    def __init__(self, folder: Path, evaluations: Evaluations, rows: Mapping[str, int]) -> None:
        self._folder = folder
        self._evaluations = evaluations
        self._rows = rows

    def sources(self, zoo: Zoo) -> list[Path]:
        """The folders of a zoo's adapters."""
        return [self._folder / "adapters" / adapter.name for adapter in zoo.adapters]

    def merge(self, sources: Sequence[Path], candidate: Candidate, rank: int) -> Merged:
        """Merges a zoo's adapters, or takes the merge kept."""
        asked: dict[str, Any] = {
            "rank": candidate.rank or rank,
            "method": candidate.method,
            "name": "merged",
            **candidate.options,
        }
        digest = lego_ray.plan(sources, **asked).digest
        folder = self._folder / "merged" / digest[:16]
        lego_ray.merge(sources, output=folder, runner="inline", **asked)
        lengths = [read_factors(source).norm for source in sources]
        mean = math.sqrt(sum(x * x for x in lengths) / len(lengths))
        return Merged(digest, folder, mean / read_factors(folder).norm)

    def evaluate(self, merged: Merged, scale: float, split: str, tasks: Sequence[str]) -> Pending:
        """Begins to evaluate a merge at a factor on its update as it is."""
        return self._submit(merged.digest[:16], merged.folder, scale, split, tasks)

    def source(self, adapter: FixtureAdapter) -> Pending:
        """Begins to test an adapter of the zoo on its own task."""
        folder = self._folder / "adapters" / adapter.name
        return self._submit(adapter.name, folder, 1.0, "test", (adapter.task,))

    def base(self, tasks: Sequence[str]) -> Pending:
        """Begins to test the base model."""
        return self._submit("base", None, 0.0, "test", tasks)

    def _submit(
        self, name: str, folder: Path | None, scale: float, split: str, tasks: Sequence[str]
    ) -> Pending:
        return self._evaluations.submit(name, folder, scale, split, self._rows[split], tuple(tasks))


def tasks_of(zoo: Zoo) -> tuple[str, ...]:
    """The tasks of a zoo's adapters, in order."""
    return tuple(adapter.task for adapter in zoo.adapters)
