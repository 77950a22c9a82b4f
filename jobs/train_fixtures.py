"""Trains the small zoo of real LoRA adapters kept under tests/fixtures/zoo.

    python -m jobs.train_fixtures --out tests/fixtures/zoo [--only NAME] [--cache DIR] [--threads 1]

For each adapter: embed the task with the frozen base, fit a logistic-regression head on that,
freeze the head too, and train LoRA under it. What is written is an ordinary PEFT directory, with
the head and a `meta.json` beside it; the texts are fetched at run time and never written there.
Needs torch, transformers, peft, scikit-learn, safetensors and rdata.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from jobs.fixture_data import Split, Task, load_task
from jobs.fixture_model import Encoder, Head, accuracy, embed, fit_head, load_base, save_head
from jobs.fixture_packages import BASE_MODEL, DEFAULT_CACHE


@dataclass(frozen=True)
class FixtureAdapter:
    """One adapter of the zoo: the task, the seed of its start and batches, and its LoRA shape."""

    name: str
    task: str
    seed: int
    rank: int = 8
    alpha: int = 16
    rslora: bool = False
    learning_rate: float = 1e-3


ZOO = (
    # five starts of their own
    FixtureAdapter("movie-s11", "movie", 11),
    FixtureAdapter("amazon-s12", "amazon", 12),
    FixtureAdapter("tweets-s13", "tweets", 13),
    FixtureAdapter("spam-s14", "spam", 14),
    FixtureAdapter("wnpos-s15", "wnpos", 15),
    # one start shared by three
    FixtureAdapter("shared-wnlex-s7", "wnlex", 7),
    FixtureAdapter("shared-fortune-s7", "fortune", 7),
    FixtureAdapter("shared-food-s7", "food", 7),
    # another rank; another scaling, 16 / sqrt(8) = 5.7 where the rest have 2, so a lower rate
    FixtureAdapter("rank4-wnverb-s16", "wnverb", 16, rank=4, alpha=8),
    FixtureAdapter("rslora-editorial-s17", "editorial", 17, rslora=True, learning_rate=5e-4),
)

# The 36 linear layers of the six blocks. Not plain "dense", which would also name a pooler's.
TARGETS = ("query", "key", "value", "intermediate.dense", "output.dense")
EPOCHS = 2
BATCH = 32
WARMUP = 0.06


def add_lora(base: Encoder, spec: FixtureAdapter) -> Encoder:
    """Wraps the base with a fresh LoRA; equal seeds and ranks give equal starts."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        base_model_name_or_path=BASE_MODEL,
        r=spec.rank,
        lora_alpha=spec.alpha,
        use_rslora=spec.rslora,
        target_modules=list(TARGETS),
        task_type="FEATURE_EXTRACTION",
    )
    torch.manual_seed(spec.seed)
    return Encoder(get_peft_model(base.transformer, config), base.tokenizer)


def train(
    model: Encoder, head: Head, split: Split, spec: FixtureAdapter, *, sorted_batches: int = 1
) -> None:
    """Trains the LoRA weights in place under the frozen head: AdamW, warm-up, linear decay.

    Args:
        model: The base with LoRA on it.
        head: The task's head.
        split: The task's training rows.
        spec: Learning rate and seed.
        sorted_batches: Batches drawn at once and cut from their rows in order of length, so that
            they pad little; 1 for batches of rows as they are drawn.
    """
    weights = [p for p in model.transformer.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=spec.learning_rate)
    steps = EPOCHS * -(-len(split) // BATCH)
    warmup = max(1, round(WARMUP * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (steps - step) / (steps - warmup + 1))
    )
    shuffle = torch.Generator().manual_seed(spec.seed)
    model.transformer.train()
    for epoch in range(EPOCHS):
        started, total = time.monotonic(), 0.0
        order = torch.randperm(len(split), generator=shuffle).tolist()
        drawn = sorted_batches * BATCH
        if sorted_batches > 1:
            order = [
                row
                for i in range(0, len(order), drawn)
                for row in sorted(order[i : i + drawn], key=lambda row: len(split.texts[row]))
            ]
        for rows in (order[i : i + BATCH] for i in range(0, len(order), BATCH)):
            features = model.pool(model.tokens([split.texts[i] for i in rows]))
            labels = torch.tensor([split.labels[i] for i in rows])
            loss = cross_entropy(head.logits(features), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(rows)
        say(f"{spec.name}: epoch {epoch + 1}/{EPOCHS}: loss {total / len(split):.4f}", started)


def save_adapter(model: Encoder, folder: Path) -> None:
    """Writes the PEFT directory, with nothing in it of this machine or of a set's order.

    The base is named by its public name, the target modules are sorted (PEFT keeps them in a set),
    and PEFT's empty model card is left out.
    """
    transformer: Any = model.transformer
    transformer.peft_config["default"].base_model_name_or_path = BASE_MODEL
    transformer.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def build(spec: FixtureAdapter, out: Path, cache: Path, threads: int) -> dict[str, Any]:
    """Trains, measures and writes one adapter; returns its meta record."""
    torch.set_num_threads(threads)
    started = time.monotonic()
    task = load_task(spec.task, cache)
    base = load_base(cache)
    head = fit_head(embed(base, task.train.texts), task.train.labels)
    before = measure(base, head, task)
    say(f"{spec.name}: {len(task.train)} rows, base {before}", started)
    model = add_lora(base, spec)
    train(model, head, task.train, spec)
    after = measure(model, head, task)
    folder = out / spec.name
    save_adapter(model, folder)
    save_head(head, folder)
    meta = describe(spec, task, before, after)
    (folder / "meta.json").write_text(json.dumps(meta, indent=2) + "\n")
    say(f"{spec.name}: done, adapter {after}", started)
    return meta


def describe(
    spec: FixtureAdapter, task: Task, before: dict[str, float], after: dict[str, float]
) -> dict[str, Any]:
    """Returns what `meta.json` says: how the adapter was trained, and what it gained."""
    return {
        "name": spec.name,
        "task": spec.task,
        "labels": task.labels,
        "seed": spec.seed,
        "rank": spec.rank,
        "alpha": spec.alpha,
        "use_rslora": spec.rslora,
        "learning_rate": spec.learning_rate,
        "epochs": EPOCHS,
        "rows": {p: len(getattr(task, p)) for p in ("train", "validation", "test")},
        "accuracy": {"base": before, "adapter": after},
    }


def measure(model: Encoder, head: Head, task: Task) -> dict[str, float]:
    """Returns validation and test accuracy."""
    splits = {"validation": task.validation, "test": task.test}
    return {name: round(accuracy(model, head, split), 4) for name, split in splits.items()}


def say(message: str, since: float) -> None:
    """Reports progress, with the seconds since `since`, on stderr."""
    print(f"{message} ({time.monotonic() - since:.0f} s)", file=sys.stderr, flush=True)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description="Train the real-adapter fixtures.")
    parser.add_argument("--out", type=Path, default=Path("tests/fixtures/zoo"))
    parser.add_argument("--only", action="append", choices=[s.name for s in ZOO], metavar="NAME")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="downloads, off the repo")
    parser.add_argument("--threads", type=int, default=1, help="torch threads a process")
    parser.add_argument("--workers", type=int, default=2, help="adapters trained side by side")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Fetches what the chosen adapters need, one package after the other, then trains them."""
    args = parse(argv)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    chosen = [spec for spec in ZOO if not args.only or spec.name in args.only]
    load_base(args.cache)
    for spec in chosen:
        load_task(spec.task, args.cache)
    with ProcessPoolExecutor(args.workers, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(build, s, args.out, args.cache, args.threads) for s in chosen]
        print(json.dumps([job.result() for job in jobs], indent=2))


if __name__ == "__main__":
    main()
