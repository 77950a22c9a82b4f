"""MiniLM under its tasks' heads, with the log-probability of each row's label beside its accuracy."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from jobs.fixtures.data import Split, load_task
from jobs.fixtures.model import embed, load_base, load_head
from jobs.quality.folding import Foldable

NATS = "nats:"  # before a task's name: its calibrated log-probabilities
TEMPERATURES = 2.0 ** torch.linspace(-3, 5, 65)


def temperature(logits: Tensor, labels: Tensor) -> float:
    """The divisor of logits, of a fixed grid, under which labels are most probable.

    Args:
        logits: Shape (n, classes), float32.
        labels: Class numbers, shape (n,), int64.
    """
    losses = [float(cross_entropy(logits / t, labels)) for t in TEMPERATURES]
    return float(TEMPERATURES[losses.index(min(losses))])


class CalibratedClassifier:
    """As `classifier.Classifier`; a task's name after `nats:` asks for log-probabilities in nats.

    They are calibrated: a temperature for each adapter and task is chosen on validation rows.

    Args:
        folder: Where `heads/<task>/` are.
        cache: Where the packages are kept.
        validation_rows: Most rows that choose the temperature.
    """

    def __init__(self, folder: Path, cache: Path, validation_rows: int) -> None:
        torch.set_num_threads(1)
        self._folder, self._cache, self._validation_rows = folder, cache, validation_rows
        self._encoder = load_base(cache)
        self._base = Foldable(self._encoder.transformer)
        self._splits: dict[tuple[str, str], Split] = {}
        self._logits: dict[tuple[str, str, int], Tensor] = {}

    def take(self, adapter: Path | None, scale: float) -> None:
        """Puts an adapter on the base, its update multiplied."""
        self._logits.clear()
        self._base.take(adapter, scale)

    def values(self, task: str, split: str, rows: int) -> list[float]:
        """1 for a row labeled right and 0 for another, or nats, over the first rows of a split."""
        name = task.removeprefix(NATS)
        logits, labels = self._of(name, split, rows)
        if name == task:
            return (logits.argmax(1) == labels).double().tolist()
        t = temperature(*self._of(name, "validation", self._validation_rows))
        return (-cross_entropy(logits / t, labels, reduction="none")).double().tolist()

    def _of(self, task: str, split: str, rows: int) -> tuple[Tensor, Tensor]:
        if (task, split) not in self._splits:
            loaded = load_task(task, self._cache)
            self._splits |= {(task, n): getattr(loaded, n) for n in ("validation", "test")}
        found = self._splits[task, split]
        key = (task, split, rows)
        if key not in self._logits:
            head = load_head(self._folder / "heads" / task)
            self._logits[key] = head.logits(embed(self._encoder, found.texts[:rows]))
        return self._logits[key], torch.tensor(found.labels[:rows])
