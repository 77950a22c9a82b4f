"""Synthetic zoos for the benchmarks: the shapes of real adapters, random weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

# Widths of a 1.1B Llama.
HIDDEN, INTERMEDIATE = 2048, 5632


def layer_sites(hidden: int, intermediate: int) -> tuple[tuple[str, int, int], ...]:
    """(module, d_in, d_out) of one layer of a Llama without grouped queries."""
    return (
        ("self_attn.q_proj", hidden, hidden),
        ("self_attn.k_proj", hidden, hidden),
        ("self_attn.v_proj", hidden, hidden),
        ("self_attn.o_proj", hidden, hidden),
        ("mlp.gate_proj", hidden, intermediate),
        ("mlp.up_proj", hidden, intermediate),
        ("mlp.down_proj", intermediate, hidden),
    )


def build(
    folder: Path,
    *,
    adapters: int,
    layers: int,
    rank: int,
    hidden: int = HIDDEN,
    intermediate: int = INTERMEDIATE,
    seed: int = 0,
) -> int:
    """Writes a zoo of bfloat16 adapters with Gaussian weights, which have no clusters to find.

    Args:
        folder: Where to; one directory an adapter.
        adapters: How many.
        layers: Layers of seven sites each.
        rank: Rank of every site.
        hidden: Width of the model.
        intermediate: Width of its feed-forward layers.
        seed: Fixes the weights.

    Returns:
        Bytes of the weights files.
    """
    generator = torch.Generator().manual_seed(seed)
    sites = layer_sites(hidden, intermediate)
    total = 0
    for number in range(adapters):
        tensors = {}
        for layer in range(layers):
            for module, d_in, d_out in sites:
                key = f"base_model.model.model.layers.{layer}.{module}"
                a = torch.randn(rank, d_in, generator=generator) / d_in**0.5
                b = torch.randn(d_out, rank, generator=generator) / d_in**0.5
                tensors[f"{key}.lora_A.weight"] = a.bfloat16()
                tensors[f"{key}.lora_B.weight"] = b.bfloat16()
        here = folder / f"adapter-{number:04d}"
        here.mkdir(parents=True)
        save_file(tensors, here / "adapter_model.safetensors", metadata={"format": "pt"})
        config = {
            "peft_type": "LORA",
            "base_model_name_or_path": "synthetic/llama-1b",
            "r": rank,
            "lora_alpha": 2 * rank,
            "target_modules": [module.rpartition(".")[2] for module, _, _ in sites],
            "task_type": "CAUSAL_LM",
        }
        (here / "adapter_config.json").write_text(json.dumps(config))
        total += (here / "adapter_model.safetensors").stat().st_size
    return total
