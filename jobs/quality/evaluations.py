"""Evaluations by several processes at once, each result kept, so that none is made twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol

Values = dict[str, list[float]]  # for each task, a value a row; more is better


class Evaluator(Protocol):
    """A base model with tasks, in one process."""

    def take(self, adapter: Path | None, scale: float) -> None:
        """Puts an adapter on the base, its update multiplied; None for the base alone."""

    def values(self, task: str, split: str, rows: int) -> list[float]:
        """A value for each of the first rows of a task's split; more is better."""


Make = Callable[[Path, Path], Evaluator]
_evaluator: Evaluator


def _begin(make: Make, folder: Path, cache: Path) -> None:
    global _evaluator
    _evaluator = make(folder, cache)


def _evaluate(
    kept: Path,
    adapter: Path | None,
    scale: float,
    split: str,
    rows: int,
    tasks: tuple[str, ...],
) -> Values:
    _evaluator.take(adapter, scale)
    found = {task: _evaluator.values(task, split, rows) for task in tasks}
    kept.parent.mkdir(parents=True, exist_ok=True)
    part = kept.with_suffix(".part")
    part.write_text(json.dumps(found) + "\n")
    part.rename(kept)
    return found


class Evaluations:
    """Evaluates adapters.

    Args:
        make: Makes an evaluator from `folder` and `cache`.
        folder: Where the results are kept, below `evaluations/`.
        cache: Where the packages are kept.
        workers: Processes, a thread each.
    """

    def __init__(self, make: Make, folder: Path, cache: Path, workers: int) -> None:
        self._folder = folder
        self._pool = ProcessPoolExecutor(
            workers,
            mp_context=get_context("spawn"),
            initializer=_begin,
            initargs=(make, folder, cache),
        )

    def submit(
        self,
        name: str,
        adapter: Path | None,
        scale: float,
        split: str,
        rows: int,
        tasks: tuple[str, ...],
    ) -> Future[Values]:
        """Begins an evaluation, or takes the one kept.

        Args:
            name: Names the adapter for good: another adapter, another name.
            adapter: Its folder; None for the base alone.
            scale: Factor on its update, taken to six digits.
            split: `validation` or `test`.
            rows: Most rows of each task.
            tasks: Names of tasks.
        """
        key = f"{scale:.6g}-{split}-{rows}-{'+'.join(tasks)}.json"
        kept = self._folder / "evaluations" / name / key
        if kept.exists():
            done: Future[Values] = Future()
            done.set_result(json.loads(kept.read_text()))
            return done
        taken = float(f"{scale:.6g}")
        return self._pool.submit(_evaluate, kept, adapter, taken, split, rows, tasks)

    def close(self) -> None:
        """Ends the processes."""
        self._pool.shutdown(cancel_futures=True)
