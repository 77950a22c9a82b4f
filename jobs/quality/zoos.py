"""The zoos of the quality benchmark: real adapters on natural tasks, trained once and kept.

Seven natural tasks, each from two training seeds, in zoos whose adapters start from seeds of their
own and in zoos whose adapters share one start; a zoo of mixed ranks; and one with a constructed task
added, which is reported apart. All are trained the same way, whatever zoo they are in.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch

from jobs.fixtures.data import Split, load_task
from jobs.fixtures.model import accuracy, embed, fit_head, load_base, load_head, save_head
from jobs.fixtures.train import FixtureAdapter, add_lora, save_adapter, say, train

NATURAL = ("amazon", "fortune", "movie", "spam", "tweets", "wnlex", "wnpos")
CONSTRUCTED = "order"
# Fewer rows than the fixtures have, and batches of like lengths: there are three times as many adapters.
TRAINING_ROWS = 1600
SORTED_BATCHES = 8


@dataclass(frozen=True)
class Zoo:
    """Adapters merged together; `kind` is `separate`, `shared`, `mixed` or `constructed`."""

    name: str
    kind: str
    adapters: tuple[FixtureAdapter, ...]


def _adapter(task: str, seed: int, rank: int = 8) -> FixtureAdapter:
    return FixtureAdapter(f"{task}-s{seed}-r{rank}", task, seed, rank=rank, alpha=2 * rank)


def _separate(start: int) -> tuple[FixtureAdapter, ...]:
    return tuple(_adapter(task, start + i) for i, task in enumerate(NATURAL))


def _shared(seed: int) -> tuple[FixtureAdapter, ...]:
    return tuple(_adapter(task, seed) for task in NATURAL)


MIXED_RANKS = (4, 16, 8, 4, 16, 8, 4)

ZOOS = (
    Zoo("separate-1", "separate", _separate(101)),
    Zoo("shared-1", "shared", _shared(150)),
    Zoo("separate-2", "separate", _separate(201)),
    Zoo("shared-2", "shared", _shared(250)),
    Zoo(
        "mixed",
        "mixed",
        tuple(
            _adapter(task, 101 + i, rank)
            for i, (task, rank) in enumerate(zip(NATURAL, MIXED_RANKS, strict=True))
        ),
    ),
    Zoo("constructed", "constructed", (*_separate(101), _adapter(CONSTRUCTED, 109))),
)


def train_all(zoos: Sequence[Zoo], folder: Path, cache: Path, workers: int) -> None:
    """Trains the adapters that are not there yet, and the heads of their tasks.

    Args:
        zoos: Whose adapters.
        folder: Where they are kept: `heads/<task>/`, `adapters/<name>/`.
        cache: Where the packages with the base model and the texts are kept.
        workers: Adapters trained side by side, a thread each; of one worker, in this process.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    wanted = dict.fromkeys(adapter for zoo in zoos for adapter in zoo.adapters)
    missing = [a for a in wanted if not (folder / "adapters" / a.name / "meta.json").exists()]
    if not missing:
        return
    load_base(cache)  # fetched once, before the processes look for it
    for task in dict.fromkeys(adapter.task for adapter in missing):
        load_task(task, cache)
    if workers == 1:
        for adapter in missing:
            _fit_head(adapter.task, folder, cache)
            _train(adapter, folder, cache)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        heads = dict.fromkeys(adapter.task for adapter in missing)
        list(pool.map(_fit_head, heads, [folder] * len(heads), [cache] * len(heads)))
        done = [pool.submit(_train, adapter, folder, cache) for adapter in missing]
        for job in done:
            job.result()


def _fit_head(name: str, folder: Path, cache: Path) -> None:
    target = folder / "heads" / name
    if (target / "head.safetensors").exists():
        return
    torch.set_num_threads(1)
    task = load_task(name, cache)
    target.mkdir(parents=True, exist_ok=True)
    save_head(fit_head(embed(load_base(cache), task.train.texts), task.train.labels), target)


def _train(spec: FixtureAdapter, folder: Path, cache: Path) -> None:
    torch.set_num_threads(1)
    started = time.monotonic()
    task = load_task(spec.task, cache)
    head = load_head(folder / "heads" / spec.task)
    model = add_lora(load_base(cache), spec)
    rows = Split(task.train.texts[:TRAINING_ROWS], task.train.labels[:TRAINING_ROWS])
    train(model, head, rows, spec, sorted_batches=SORTED_BATCHES)
    target = folder / "adapters" / spec.name
    save_adapter(model, target)
    found = round(accuracy(model, head, task.validation), 4)
    meta = {"task": spec.task, "seed": spec.seed, "rank": spec.rank, "validation": found}
    (target / "meta.json").write_text(json.dumps(meta) + "\n")
    say(f"{spec.name}: validation accuracy {found}", started)
