"""MiniLM under its tasks' heads: which rows are labeled right."""

from __future__ import annotations

from pathlib import Path

import torch

from jobs.fixtures.data import Split, load_task
from jobs.fixtures.model import embed, load_base, load_head
from jobs.quality.folding import Foldable

SPLITS = ("validation", "test")


class Classifier:
    """The base model, the tasks' texts and heads, in one process, on one thread.

    Args:
        folder: Where `heads/<task>/` are.
        cache: Where the packages are kept.
    """

    def __init__(self, folder: Path, cache: Path) -> None:
        torch.set_num_threads(1)
        self._folder, self._cache = folder, cache
        self._encoder = load_base(cache)
        self._base = Foldable(self._encoder.transformer)
        self._splits: dict[tuple[str, str], Split] = {}

    def take(self, adapter: Path | None, scale: float) -> None:
        """Puts an adapter on the base, its update multiplied."""
        self._base.take(adapter, scale)

    def values(self, task: str, split: str, rows: int) -> list[float]:
        """1 for a row labeled right and 0 for another, over the first rows of a split."""
        if (task, split) not in self._splits:
            loaded = load_task(task, self._cache)
            self._splits |= {(task, name): getattr(loaded, name) for name in SPLITS}
        texts = self._splits[task, split].texts[:rows]
        labels = torch.tensor(self._splits[task, split].labels[:rows])
        head = load_head(self._folder / "heads" / task)
        return (head.logits(embed(self._encoder, texts)).argmax(1) == labels).double().tolist()
