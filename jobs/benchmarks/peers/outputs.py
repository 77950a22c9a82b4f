"""What a tool wrote, as the update of each module, and how far that is from what was asked for."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from jobs.benchmarks.peers.zoos import Weights, kohya_name, llama_name


def updates_of(output: Path, modules: list[str]) -> Weights:
    """Updates (d_out, d_in) in float64, by BERT module; those that the output lacks are left out.

    Args:
        output: A PEFT directory under BERT's or Llama's names, or a kohya file.
        modules: The modules to look for.
    """
    if output.suffix == ".safetensors":
        return _kohya_updates(output, modules)
    config = json.loads((output / "adapter_config.json").read_text())
    tensors = load_file(output / "adapter_model.safetensors")
    found = {}
    for module in modules:
        for name in (module, llama_name(module)):
            a = tensors.get(f"base_model.model.{name}.lora_A.weight")
            if a is None:
                continue
            b = tensors[f"base_model.model.{name}.lora_B.weight"]
            rank = _of(config.get("rank_pattern"), name, config["r"])
            alpha = _of(config.get("alpha_pattern"), name, config["lora_alpha"])
            scaling = alpha / (rank**0.5 if config.get("use_rslora") else rank)
            found[module] = scaling * b.double() @ a.double()
    return found


def _of(pattern: dict[str, float] | None, name: str, default: float) -> float:
    fits = (v for k, v in (pattern or {}).items() if name == k or name.endswith(f".{k}"))
    return next(fits, default)


def _kohya_updates(file: Path, modules: list[str]) -> Weights:
    tensors = load_file(file)
    found = {}
    for module in modules:
        key = kohya_name(module)
        if f"{key}.lora_down.weight" in tensors:
            a, b = tensors[f"{key}.lora_down.weight"], tensors[f"{key}.lora_up.weight"]
            scaling = float(tensors.get(f"{key}.alpha", torch.tensor(len(a)))) / len(a)
            found[module] = scaling * b.double() @ a.double()
    return found


def total(parts: Iterable[Weights]) -> Weights:
    """The sum, module by module; holds one part at a time."""
    found: Weights = {}
    for part in parts:
        for module, update in part.items():
            found[module] = found[module] + update if module in found else update
    return found


def relative_error(got: Weights, wanted: Weights) -> float:
    """Frobenius norm of the difference over all modules, over that of what was wanted."""
    gap = sum(
        float((got[m] - w).square().sum() if m in got else w.square().sum())
        for m, w in wanted.items()
    )
    return float((gap / sum(float(w.square().sum()) for w in wanted.values())) ** 0.5)


def least_error(wanted: Weights, rank: int) -> float:
    """The smallest relative error that any adapter of this rank has (Eckart and Young)."""
    values = [torch.linalg.svdvals(w).square() for w in wanted.values()]
    return float((sum(v[rank:].sum() for v in values) / sum(v.sum() for v in values)) ** 0.5)


def sources_named(output: Path, names: list[str]) -> int:
    """How many of the sources the output's files name, in text or in a header's metadata."""
    files = [output] if output.is_file() else [f for f in output.rglob("*") if f.is_file()]
    text = ""
    for file in files:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as opened:
                text += json.dumps(opened.metadata() or {})
        else:
            text += file.read_bytes().decode(errors="replace")
    return sum(name in text for name in names)
