"""The built-in scorer: mean log-likelihood of texts under a causal language model with an adapter.

It runs in the process of a `ChildScorer`: the base model is loaded once, and each adapter is put on it
by PEFT and taken off again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean
from typing import Any

from lego_ray.lazy import torch
from lego_ray.scoring.command import ALL_ROWS
from lego_ray.scoring.rows import TextRow, read_rows, rows_by_task

TARGET = "lego_ray.scoring.texts:score_texts"
# Tokens of a text that count, its prompt's included; fewer where the model has fewer positions.
LONGEST = 1024
# Tokens of texts that go through the model at once, what fills up shorter texts included.
BATCH_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class Tokens:
    """A text as the model takes it.

    Attributes:
        ids: Its tokens, the prompt's first.
        prompt: How many of them are not scored; at least 1, since nothing comes before the first.
    """

    ids: tuple[int, ...]
    prompt: int


def score_texts(
    adapter: str, *, split: str = ALL_ROWS, texts: str, base: str, revision: str = ""
) -> dict[str, Any]:
    """The score of an adapter: the mean of its tasks, each the mean of its rows.

    A row's score is the mean of log p(token | those before) over its text, in nats a token.

    Args:
        adapter: Its directory, in PEFT's layout.
        split: `choose`, `report` or `all` rows.
        texts: The file of JSON lines; see `rows.read_rows`.
        base: The base model: a directory, or `owner/name` on the Hub.
        revision: Its revision on the Hub; empty for the default branch.

    Returns:
        `score`, `tasks` and `rows`.
    """
    from peft import PeftModel

    model = _model(base, revision)
    rows = rows_by_task(_rows(texts), split)
    on_it = PeftModel.from_pretrained(model, adapter)
    try:
        on_it.eval()
        found = {
            task: _of_rows(on_it, _tokens(texts, base, revision, tuple(mine)))
            for task, mine in rows.items()
        }
    finally:
        on_it.unload()
    tasks = {task: fmean(values) for task, values in found.items()}
    return {"score": fmean(tasks.values()), "tasks": tasks, "rows": found}


@cache
def _rows(texts: str) -> tuple[TextRow, ...]:
    return read_rows(texts)


@cache
def _model(base: str, revision: str) -> Any:
    """The base model, on a GPU if there is one; in float32 on a CPU, where half precision is slow."""
    from transformers import AutoModelForCausalLM

    on_gpu = torch.cuda.is_available()
    model: Any = AutoModelForCausalLM.from_pretrained(
        base, revision=revision or "main", dtype="auto" if on_gpu else torch.float32
    )
    return model.to("cuda" if on_gpu else "cpu").eval()


@cache
def _tokens(texts: str, base: str, revision: str, rows: tuple[TextRow, ...]) -> list[Tokens]:
    """The tokens of some rows of a file."""
    from transformers import AutoTokenizer

    del texts
    tokenizer = AutoTokenizer.from_pretrained(base, revision=revision or "main")
    positions = getattr(_model(base, revision).config, "max_position_embeddings", None) or LONGEST
    found = []
    for row in rows:
        prompt = tokenizer(row.prompt)["input_ids"] if row.prompt else []
        whole = tokenizer(row.prompt + row.text)["input_ids"][: min(LONGEST, positions)]
        before = max(1, min(len(prompt), len(whole) - 1))
        if len(whole) <= before:
            # One token, with nothing before it: its end is scored in its place.
            whole = [*whole, tokenizer.eos_token_id or 0][: before + 1]
        found.append(Tokens(tuple(whole), before))
    return found


def _of_rows(model: Any, rows: Sequence[Tokens]) -> list[float]:
    """The mean log-likelihood a token of each row, in order."""
    found = [math.nan] * len(rows)
    for numbers in _batches(rows):
        values = _log_likelihoods(model, [rows[number] for number in numbers])
        for number, value in zip(numbers, values, strict=True):
            found[number] = value
    return found


def _batches(rows: Sequence[Tokens]) -> Iterator[list[int]]:
    """Numbers of rows of about the same length, together no more than `BATCH_TOKENS`, or one."""
    batch: list[int] = []
    for number in sorted(range(len(rows)), key=lambda n: len(rows[n].ids)):
        if batch and (len(batch) + 1) * len(rows[number].ids) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def _log_likelihoods(model: Any, rows: Sequence[Tokens]) -> list[float]:
    longest = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    real = torch.zeros(len(rows), longest, dtype=torch.long)
    scored = torch.zeros(len(rows), longest, dtype=torch.bool)
    for at, row in enumerate(rows):
        ids[at, : len(row.ids)] = torch.tensor(row.ids)
        real[at, : len(row.ids)] = 1
        scored[at, row.prompt : len(row.ids)] = True
    device = next(model.parameters()).device
    ids, real, scored = ids.to(device), real.to(device), scored.to(device)
    with torch.inference_mode():
        logits = model(input_ids=ids, attention_mask=real).logits[:, :-1].float()
        each = torch.log_softmax(logits, -1).gather(-1, ids[:, 1:, None])[..., 0].double()
    each = each.where(scored[:, 1:], torch.zeros_like(each))
    means: list[float] = (each.sum(1) / scored.sum(1)).tolist()
    return means
