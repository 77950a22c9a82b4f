"""Candidates for what no flag means, on the fresh zoos: each value kept as soon as it is measured."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lego_ray
from jobs.quality.calibrated import NATS
from jobs.quality.candidates import Candidate
from jobs.quality.evaluations import Evaluator
from jobs.quality.fresh_zoos import OVER_TRAINED
from jobs.quality.scores import Rows
from jobs.quality.study import tasks_of
from jobs.quality.zoos import Zoo

RANK = 8
PAPER = Candidate("paper", "lego", {"preset": "paper"})
LEGO_ADAPTIVE = Candidate("lego-adaptive", "lego", {"preset": "lego-adaptive"})
ADAPTIVE = Candidate("adaptive", "svd", {"preset": "adaptive"})
ISO = Candidate("iso", "iso", {"preset": "iso"})
SVD = Candidate("svd", "svd")
CORE_SPACE = Candidate("core-space", "core_space", {"preset": "core-space"})
CANDIDATES = (PAPER, LEGO_ADAPTIVE, ADAPTIVE, ISO, SVD, CORE_SPACE)
OWN = Candidate("each task's own adapter", "none")
BASE = Candidate("base", "none")
SCALES = (0.5, 1.41, 2.0)  # beside 1, on validation rows


@dataclass(frozen=True)
class Cell:
    """One thing measured: a merge of a zoo, its adapters on their own tasks, or the base alone."""

    zoo: Zoo
    candidate: Candidate
    scale: float
    split: str


@dataclass(frozen=True)
class Bench:
    """A base model with its zoos.

    Attributes:
        name: Its folder's and in the results.
        zoos: In the order in which they are measured.
        rows: Most rows of a task, by split.
        train: Trains the adapters of a zoo that are not there yet.
        open: Loads the base model.
        nats_too: Whether the evaluator gives `nats:<task>` beside `<task>`.
    """

    name: str
    zoos: Sequence[Zoo]
    rows: dict[str, int]
    train: Callable[[Zoo], None]
    open: Callable[[], Evaluator]
    nats_too: bool = False


def cells(bench: Bench) -> Iterator[Cell]:
    """All that is measured, what decides first: each zoo at scale 1 on test rows, then the scales."""
    for zoo in sorted(bench.zoos, key=lambda zoo: zoo.kind == OVER_TRAINED):
        yield from (Cell(zoo, c, 1.0, "test") for c in CANDIDATES[:3])
    for zoo in bench.zoos:
        yield from (Cell(zoo, c, 1.0, "test") for c in (BASE, OWN, *CANDIDATES[3:]))
    for zoo in bench.zoos:
        for scale in (1.0, *SCALES):
            yield from (Cell(zoo, c, scale, "validation") for c in (OWN, *CANDIDATES))


class Kept:
    """Values measured, and merges, in a folder; a second call goes on where the first ended.

    Args:
        folder: Of all bases.
        bench: The base.
    """

    def __init__(self, folder: Path, bench: Bench) -> None:
        self._folder, self._bench = folder, bench
        self._evaluator: Evaluator | None = None
        # Own adapters and the base are in zoos of several sizes.
        self._known: dict[tuple[Path | None, float, str, str], list[float]] = {}

    def find(self, cell: Cell) -> Rows | None:
        """The values by task, if they were measured."""
        path = self._path(cell)
        if not path.exists():
            return None
        values: Rows = json.loads(path.read_text())["values"]
        return values

    def measure(self, cell: Cell) -> None:
        """Measures one, unless it was, training and merging what it needs."""
        if self.find(cell) is not None:
            return
        self._bench.train(cell.zoo)
        if self._evaluator is None:
            self._evaluator = self._bench.open()
        values: dict[str, list[float]] = {}
        if cell.candidate == OWN:
            for adapter in cell.zoo.adapters:
                folder = self._folder / "adapters" / adapter.name
                values |= self._values(folder, cell, (adapter.task,))
        else:
            values = self._values(self._adapter(cell), cell, tasks_of(cell.zoo))
        path = self._path(cell)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        said = {"zoo": cell.zoo.name, "candidate": cell.candidate.label, "scale": cell.scale}
        part.write_text(json.dumps({**said, "split": cell.split, "values": values}) + "\n")
        part.rename(path)

    def _values(
        self, adapter: Path | None, cell: Cell, tasks: Sequence[str]
    ) -> dict[str, list[float]]:
        assert self._evaluator is not None
        asked = [*tasks, *(NATS + task for task in tasks if self._bench.nats_too)]
        keys = {task: (adapter, cell.scale, cell.split, task) for task in asked}
        if not all(key in self._known for key in keys.values()):
            self._evaluator.take(adapter, cell.scale)
            rows = self._bench.rows[cell.split]
            for task, key in keys.items():
                self._known[key] = self._evaluator.values(task, cell.split, rows)
        return {task: self._known[key] for task, key in keys.items()}

    def _adapter(self, cell: Cell) -> Path | None:
        """The merge, made if it was not; None for the base alone."""
        if cell.candidate == BASE:
            return None
        output = self._folder / "merged" / self._bench.name / _key(cell.zoo, cell.candidate)
        sources = [self._folder / "adapters" / adapter.name for adapter in cell.zoo.adapters]
        options: dict[str, Any] = {"method": cell.candidate.method, **cell.candidate.options}
        lego_ray.merge(sources, output=output, runner="inline", rank=RANK, name="merged", **options)
        return output

    def _path(self, cell: Cell) -> Path:
        rows = self._bench.rows[cell.split]
        key = _key(cell.zoo, cell.candidate, cell.scale, cell.split, rows, self._bench.rows)
        return self._folder / "values" / self._bench.name / f"{key}.json"


def _key(zoo: Zoo, candidate: Candidate, *others: object) -> str:
    """Names what is made of a zoo: others adapters or options, another name."""
    adapters = [asdict(adapter) for adapter in zoo.adapters]
    made = [adapters, candidate.method, dict(candidate.options), candidate.label, *others]
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:16]
