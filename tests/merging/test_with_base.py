"""DoRA, PiSSA and OLoRA merged with their base model: PEFT's own merged weights are the oracle."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

import lego_ray
from lego_ray.errors import NoAdaptersFound, UnusableBase
from tests.zoo import files_of

# Ours is float64 and rounded once; PEFT's is float32 all the way, its SVD and QR too.
FLOAT32: dict[str, float] = {"rtol": 1e-4, "atol": 2e-5}
Base = Callable[[], Any]


def llama(**more: Any) -> Any:
    sizes = {"vocab_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"hidden_size": 16, "intermediate_size": 24, "num_key_value_heads": 1}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**sizes, **more}))


def gpt2() -> Any:
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


def write_base(root: Path, make: Base = llama, *, shard: str = "1GB", seed: int = 0) -> Path:
    torch.manual_seed(seed)
    model = make()
    for parameter in model.parameters():  # so that nothing of it is zero or one
        parameter.data.copy_(torch.randn(parameter.shape) * 0.3)
    model.save_pretrained(root, max_shard_size=shard)
    return root


def load(base: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)


def train(base: Path, path: Path, *, seed: int = 1, **options: Any) -> dict[str, Tensor]:
    """An adapter trained a little, saved by PEFT; and what it does to the base model, by weight."""
    fields: dict[str, Any] = {"r": 3, "lora_alpha": 7, "task_type": "CAUSAL_LM", **options}
    fields.setdefault("target_modules", ["q_proj", "v_proj", "down_proj"])
    before = {name: tensor.clone() for name, tensor in load(base).state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: Any = get_peft_model(load(base), LoraConfig(**fields))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data += torch.randn(parameter.shape, generator=generator) * 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(str(path))
        after = model.merge_and_unload().state_dict()
    return {
        name: after[name] - tensor
        for name, tensor in before.items()
        if not torch.equal(after[name], tensor)
    }


def effect(base: Path, merged: Path) -> dict[str, Tensor]:
    """What a merged adapter does to the base model, by weight, as PEFT has it."""
    before = {name: tensor.clone() for name, tensor in load(base).state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        after = PeftModel.from_pretrained(load(base), str(merged)).merge_and_unload().state_dict()
    return {
        name: after[name] - tensor
        for name, tensor in before.items()
        if not torch.equal(after[name], tensor)
    }


def merged(source: Path, base: Path, output: Path, rank: int, **options: Any) -> Any:
    options = {"runner": "inline", "method": "svd", "dtype": "F32", "compact": True, **options}
    return lego_ray.merge(source, output=output, base=base, rank=rank, **options)


def check(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, **FLOAT32)


EXACT: dict[str, tuple[Base, int, dict[str, Any]]] = {
    "dora": (llama, 16, {"use_dora": True, "r": 16}),
    "dora rslora": (
        llama,
        16,
        {
            "use_dora": True,
            "use_rslora": True,
            "r": 16,
            "rank_pattern": {"layers.1.self_attn.v_proj": 8},
            "alpha_pattern": {"v_proj": 5},
        },
    ),
    "dora gpt2": (gpt2, 16, {"use_dora": True, "r": 16, "target_modules": ["c_attn", "c_proj"]}),
    "dora embedding": (
        llama,
        16,
        {"use_dora": True, "r": 16, "target_modules": ["embed_tokens", "q_proj"]},
    ),
    "pissa": (llama, 6, {"init_lora_weights": "pissa"}),
    "pissa patterns": (
        llama,
        8,
        {
            "init_lora_weights": "pissa",
            "use_rslora": True,
            "rank_pattern": {"layers.1.self_attn.q_proj": 4},
            "alpha_pattern": {"v_proj": 5},
        },
    ),
    "pissa gpt2": (
        gpt2,
        6,
        {"init_lora_weights": "pissa", "target_modules": ["c_attn", "c_proj", "c_fc"]},
    ),
    "pissa of a wide rank": (llama, 16, {"init_lora_weights": "pissa", "r": 8}),
    "olora": (llama, 6, {"init_lora_weights": "olora"}),
    "olora rslora": (llama, 6, {"init_lora_weights": "OLoRA", "use_rslora": True}),
    "dora of pissa": (
        llama,
        8,
        {"init_lora_weights": "pissa", "use_dora": True, "r": 8, "target_modules": ["v_proj"]},
    ),
}


@pytest.mark.parametrize("case", EXACT)
def test_the_effect_is_peft_s_where_the_rank_holds_it(tmp_path: Path, case: str) -> None:
    make, rank, options = EXACT[case]
    base = write_base(tmp_path / "base", make)
    wanted = train(base, tmp_path / "adapter", **options)
    record = merged(tmp_path / "adapter", base, tmp_path / "out", rank)
    check(effect(base, tmp_path / "out"), wanted)
    told = "; ".join(note["note"] for note in record.notes)
    assert ("DoRA" in told) == bool(options.get("use_dora"))
