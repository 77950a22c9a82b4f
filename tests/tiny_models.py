"""Base models of a few thousand parameters, with random weights."""

from __future__ import annotations

from typing import Any

import transformers


def gpt2() -> Any:
    """A GPT-2, whose layers store their weights transposed."""
    config = transformers.GPT2Config(
        vocab_size=40,
        n_embd=16,
        n_layer=2,
        n_head=2,
        n_positions=16,
        bos_token_id=1,
        eos_token_id=2,
    )
    return transformers.GPT2LMHeadModel(config)
