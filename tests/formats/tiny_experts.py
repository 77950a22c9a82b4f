"""Tiny mixtures of experts of transformers, adapters that PEFT saves for them, and PEFT's updates."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

BASE = "acme/tiny"
Updates = dict[str, NDArray[np.float64]]

_COMMON: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}
# A model of each way in which transformers keeps the experts of a layer in one parameter.
_MODELS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"intermediate_size": 24}),
    "qwen3_moe": (
        "Qwen3Moe",
        {"moe_intermediate_size": 12, "num_experts": 3, "num_experts_per_tok": 2},
    ),
    "mixtral": ("Mixtral", {"intermediate_size": 12, "num_local_experts": 3}),
    "gpt_oss": ("GptOss", {"intermediate_size": 12, "num_local_experts": 3}),
    "llama4": (
        "Llama4Text",
        {
            "intermediate_size": 12,
            "intermediate_size_mlp": 24,
            "num_local_experts": 3,
            "interleave_moe_layer_step": 1,
            "attention_chunk_size": 8,
        },
    ),
}
# Where each has the experts of its layer.
EXPERTS = dict.fromkeys(_MODELS, "mlp.experts") | {"llama4": "feed_forward.experts"}
# `get_delta_weight` is of the parameter as stored, and these store it the other way about than B A.
IS_TRANSPOSED = {"gpt_oss"}


def model(name: str) -> nn.Module:
    """A model with random weights, the same at each call."""
    prefix, options = _MODELS[name]
    config = getattr(transformers, f"{prefix}Config")(**_COMMON, **options)
    torch.manual_seed(0)
    class_name = "Llama4" if prefix == "Llama4Text" else prefix
    made: nn.Module = getattr(transformers, f"{class_name}ForCausalLM")(config)
    return made


def targets(name: str) -> list[str]:
    """What `target_parameters` names both parameters of its experts by."""
    return [f"{EXPERTS[name]}.gate_up_proj", f"{EXPERTS[name]}.down_proj"]


def train(name: str, path: Path, seed: int = 1, **options: Any) -> PeftModel:
    """Saves an adapter with random factors, as if trained.

    Args:
        name: The model's.
        path: The adapter's directory; made.
        seed: Of its factors.
        options: Of its configuration; by default r is 2, and experts and q_proj are targeted.
    """
    fields: dict[str, Any] = {
        "r": 2,
        "lora_alpha": 6,
        "target_modules": ["q_proj"],
        "target_parameters": targets(name),
        **options,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = get_peft_model(model(name), LoraConfig(**fields))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for key, parameter in made.named_parameters():
                if "lora_" in key:
                    parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        made.save_pretrained(str(path))
    edit(path, base_model_name_or_path=BASE)
    return made


def edit(path: Path, **fields: object) -> None:
    """Sets fields of an adapter's configuration; None removes one."""
    file = path / "adapter_config.json"
    config = {**json.loads(file.read_text()), **fields}
    file.write_text(json.dumps({key: v for key, v in config.items() if v is not None}))


def rewrite(path: Path, change: Any) -> None:
    """Changes an adapter's tensors: `change` gives a tensor again for each key and tensor."""
    file = path / "adapter_model.safetensors"
    tensors = {key: change(key, tensor).contiguous() for key, tensor in load_file(file).items()}
    save_file(tensors, file, {"format": "pt"})


def as_before_019(path: Path) -> None:
    """Puts A and B of experts where PEFT 0.17 had them for parameters of shape (E, out, in)."""
    file = path / "adapter_model.safetensors"
    tensors = load_file(file)
    for key in [key for key in tensors if ".experts." in key and ".lora_A." in key]:
        other = key.replace(".lora_A.", ".lora_B.")
        a, b = tensors[key], tensors[other]
        rank = a.shape[0] // 3
        pairs = a.reshape(3, rank, -1)  # (E, r, in)
        columns = b.reshape(b.shape[0], rank, 3)  # (out, r, E)
        tensors[key] = columns.permute(2, 1, 0).reshape(3 * rank, -1).contiguous()
        tensors[other] = pairs.permute(2, 1, 0).reshape(-1, 3 * rank).contiguous()
    save_file(tensors, file, {"format": "pt"})


def updates(name: str, path: Path, *, has_patterns: bool = True) -> Updates:
    """What PEFT adds to each weight of the base model when it merges an adapter, in float64.

    Args:
        name: The model's.
        path: The adapter's directory.
        has_patterns: Whether the adapter may have patterns for parameters. They do hold, and PEFT
            warns of them, as it looks for them among modules only.
    """
    base = {key: value.clone() for key, value in model(name).double().state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*config.*not found.*")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        if has_patterns:
            warnings.filterwarnings(
                "ignore", message=".*_pattern keys did not match any targeted module"
            )
        loaded = PeftModel.from_pretrained(
            model(name).double(), str(path), autocast_adapter_dtype=False
        )
    merged: Any = loaded.double().merge_and_unload()
    after: Mapping[str, Tensor] = merged.state_dict()
    changed = {key: (after[key] - base[key]).numpy() for key in base}
    return {key: change for key, change in changed.items() if change.any()}


def by_site(name: str, found: Updates) -> Updates:
    """Updates of weights by the names that lego-ray has for sites: one an expert, as B A."""
    out: Updates = {}
    for key, update in found.items():
        if update.ndim == 3:
            turned = update.transpose(0, 2, 1) if name in IS_TRANSPOSED else update
            out |= {f"{key}.{number}": each for number, each in enumerate(turned)}
        else:
            out[key.removesuffix(".weight")] = update
    return out


def total(*several: Updates) -> Updates:
    """The sum of updates, weight by weight."""
    out: Updates = {}
    for each in several:
        for key, update in each.items():
            out[key] = out.get(key, np.zeros(update.shape)) + update
    return out
