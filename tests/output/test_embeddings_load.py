"""Adapters that carry an embedding beside their factors: its own weights, or rows of new tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import lego_ray
from lego_ray.errors import UnsupportedAdapter
from tests.formats.tiny_experts import total, train, updates
from tests.formats.tiny_peft import read
from tests.zoo import relative_error

ROUNDING = 16 * 2.0**-24
FILE = "adapter_model.safetensors"
EMBEDDINGS: dict[str, Any] = {
    "target_parameters": None,
    "target_modules": ["q_proj", "embed_tokens", "lm_head"],
}
TOKENS: dict[str, Any] = {"target_parameters": None, "trainable_token_indices": [3, 5]}


def test_the_base_models_own_weights_of_an_adapted_embedding_are_left_out(tmp_path: Path) -> None:
    for seed in (1, 2):
        train("llama", tmp_path / "zoo" / f"a{seed}", seed, **EMBEDDINGS)
    own = {key for key in load_file(tmp_path / "zoo" / "a1" / FILE) if "base_layer" in key}
    assert len(own) == 2
    wanted = total(*(updates("llama", tmp_path / "zoo" / f"a{seed}") for seed in (1, 2)))
    record = lego_ray.merge(
        tmp_path / "zoo", output=tmp_path / "m", rank=4, method="concat", runner="inline"
    )
    assert relative_error(updates("llama", tmp_path / "m"), wanted) < ROUNDING
    assert not any("base_layer" in key for key in load_file(tmp_path / "m" / FILE))
    notes = [each["note"] for each in record["notes"]]
    assert len(notes) == 2
    assert all("which PEFT saves unasked, were left out" in note for note in notes)
    assert all("the vocabulary was resized" in note for note in notes)


def test_one_kept_on_request_is_taken_over_as_before(tmp_path: Path) -> None:
    train("llama", tmp_path / "a", **EMBEDDINGS)
    lego_ray.merge(
        tmp_path / "a", output=tmp_path / "m", rank=2, full_weights="keep:a", runner="inline"
    )
    assert sum("base_layer" in key for key in load_file(tmp_path / "m" / FILE)) == 2


def test_rows_of_tokens_are_refused_or_dropped_with_a_note(tmp_path: Path) -> None:
    train("llama", tmp_path / "zoo" / "a", 1, **TOKENS)
    with pytest.raises(UnsupportedAdapter, match="--full-weights drop leaves them out"):
        read(tmp_path / "zoo" / "a")
    train("llama", tmp_path / "zoo" / "b", 2, target_parameters=None)
    record = lego_ray.merge(
        tmp_path / "zoo",
        output=tmp_path / "m",
        rank=4,
        method="concat",
        full_weights="drop",
        runner="inline",
    )
    [note] = [each["note"] for each in record["notes"]]
    assert "rows of the embedding (trainable_token_indices) were dropped" in note
    query = "model.layers.0.self_attn.q_proj.weight"
    both = (updates("llama", tmp_path / "zoo" / each) for each in "ab")
    wanted = total(*({query: each[query]} for each in both))
    assert relative_error(updates("llama", tmp_path / "m"), wanted) < ROUNDING
