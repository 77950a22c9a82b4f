"""Adapters that carry an embedding beside their factors: its own weights, or rows of new tokens."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

import lego_ray
from lego_ray.errors import UnsupportedAdapter
from tests.formats.tiny_experts import BASE, edit, total, train, updates
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


def tied(adapters: Path, name: str, seed: int, **options: Any) -> None:
    """Saves an adapter of a Llama whose embedding and output layer are one."""
    torch.manual_seed(0)
    fields: dict[str, Any] = {"r": 3, "lora_alpha": 6, "task_type": "CAUSAL_LM", **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = get_peft_model(tied_llama(), LoraConfig(ensure_weight_tying=True, **fields))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for key, parameter in made.named_parameters():
                if "lora_" in key or "modules_to_save" in key:
                    parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        made.save_pretrained(str(adapters / name))
    edit(adapters / name, base_model_name_or_path=BASE)


def tied_llama() -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24}
    config = transformers.LlamaConfig(
        **sizes,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    return transformers.LlamaForCausalLM(config)


def loaded_tied(path: Path) -> Any:
    """PEFT's model, which warns where the configuration does not say that the adapter is tied."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*config.*not found.*")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        return PeftModel.from_pretrained(tied_llama(), str(path))


@pytest.mark.parametrize(
    "options",
    [
        {"method": "concat", "rank": 6},
        {"method": "lego", "rank": 4},
        {"method": "svd", "rank_budget": 3},
        {"method": "concat", "rank": 6, "compact": True},
    ],
    ids=str,
)
def test_what_is_tied_stays_tied(options: dict[str, Any], tmp_path: Path) -> None:
    for seed in (1, 2):
        tied(tmp_path / "zoo", f"a{seed}", seed, target_modules=["q_proj", "embed_tokens"])
    lego_ray.merge(tmp_path / "zoo", output=tmp_path / "m", runner="inline", **options)
    model = loaded_tied(tmp_path / "m").base_model.model
    embedding, head = model.model.embed_tokens, model.lm_head
    update = embedding.get_delta_weight("default")
    assert torch.equal(head.get_delta_weight("default"), update)
    if options["method"] == "concat":
        parts = [loaded_tied(tmp_path / "zoo" / f"a{seed}") for seed in (1, 2)]
        of = [p.base_model.model.model.embed_tokens.get_delta_weight("default") for p in parts]
        wanted = sum(of).detach().double().numpy()
        assert relative_error({"": update.detach().double().numpy()}, {"": wanted}) < ROUNDING


def test_an_embedding_that_is_kept_stays_tied(tmp_path: Path) -> None:
    for seed in (1, 2):
        saved: dict[str, Any] = {"modules_to_save": ["embed_tokens"]}
        tied(tmp_path / "zoo", f"a{seed}", seed, target_modules=["q_proj"], **saved)
    lego_ray.merge(
        tmp_path / "zoo", output=tmp_path / "m", rank=6, full_weights="keep:a1", runner="inline"
    )
    model, one = (loaded_tied(tmp_path / each).base_model.model for each in ("m", "zoo/a1"))
    tokens = torch.arange(40)
    assert torch.equal(model.model.embed_tokens(tokens), one.model.embed_tokens(tokens))


def test_with_one_that_is_not_tied_the_merge_is_not(tmp_path: Path) -> None:
    modules = ["q_proj", "embed_tokens", "lm_head"]
    for seed in (1, 2):
        tied(tmp_path / "zoo", f"a{seed}", seed, target_modules=modules)
    edit(tmp_path / "zoo" / "a2", ensure_weight_tying=False, target_modules=modules)
    lego_ray.merge(tmp_path / "zoo", output=tmp_path / "m", rank=6, runner="inline")
    config = json.loads((tmp_path / "m" / "adapter_config.json").read_text())
    assert "ensure_weight_tying" not in config


def test_an_update_which_cannot_know_is_not_tied(tmp_path: Path) -> None:
    modules = ["q_proj", "embed_tokens", "lm_head"]
    for name in "ab":
        tied(tmp_path, name, ord(name), target_modules=modules)
    options: dict[str, Any] = {"runner": "inline", "output": tmp_path / "m"}
    lego_ray.merge(tmp_path / "a", rank=3, updatable=True, output_reweight="none", **options)
    options["output"] = tmp_path / "n"
    lego_ray.update(tmp_path / "m", add=[tmp_path / "b"], **options)
    config = json.loads((tmp_path / "n" / "adapter_config.json").read_text())
    assert "ensure_weight_tying" not in config
