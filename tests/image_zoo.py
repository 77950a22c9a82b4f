"""Tiny LoRAs of image models, written as kohya's and diffusers' tools do, and their updates in float64.

The sites are those of `unet()` and `text_encoder()` in `tests.output.test_diffusers_loads`, so
diffusers can load whatever is merged from them. Nothing here uses lego_ray: what it computes is what
lego_ray is held against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"

# Of each module: its path in its component, the shape of one row of A, and the length of B's columns.
UNET: Mapping[str, tuple[tuple[int, ...], int]] = {
    f"{BLOCK}.attn1.to_q": ((8,), 8),
    f"{BLOCK}.attn1.to_out.0": ((8,), 8),
    f"{BLOCK}.attn2.to_k": ((12,), 8),
    f"{BLOCK}.ff.net.0.proj": ((8,), 64),
    "down_blocks.0.attentions.0.proj_in": ((8, 1, 1), 8),
    "down_blocks.0.resnets.0.conv1": ((8, 3, 3), 8),
    "mid_block.attentions.0.transformer_blocks.0.attn1.to_v": ((16,), 16),
}
TEXT: Mapping[str, tuple[tuple[int, ...], int]] = {
    "encoder.layers.0.self_attn.q_proj": ((12,), 12),
    "encoder.layers.1.self_attn.out_proj": ((12,), 12),
    "encoder.layers.1.mlp.fc1": ((12,), 20),
}
ATTENTION = tuple(path for path in UNET if ".attn" in path)

Updates = dict[str, np.ndarray]


def factors(seed: int, rank: int, dtype: str = "F32") -> dict[str, tuple[Tensor, Tensor]]:
    """A and B of every module, by `<component>.<path>`."""
    out = {}
    modules = {f"unet.{path}": shape for path, shape in UNET.items()}
    modules |= {f"text_encoder.text_model.{path}": shape for path, shape in TEXT.items()}
    for number, (site, (tail, d_out)) in enumerate(modules.items()):
        generator = torch.Generator().manual_seed(1000 * seed + number)
        a = 0.4 * torch.randn(rank, *tail, generator=generator)
        b = 0.3 * torch.randn(d_out, rank, *(1,) * (len(tail) - 1), generator=generator)
        out[site] = (a.to(DTYPES[dtype]), b.to(DTYPES[dtype]))
    return out


def updates(pairs: Mapping[str, tuple[Tensor, Tensor]], scaling: float = 1.0) -> Updates:
    """The update of each site, (d_out, d_in) with a convolution flattened."""
    return {
        site: scaling * (b.double().flatten(1) @ a.double().flatten(1)).numpy()
        for site, (a, b) in pairs.items()
    }


def kohya_name(site: str) -> str:
    """What kohya's tools call a module of Stable Diffusion 1."""
    component, _, path = site.partition(".")
    return f"lora_{'unet' if component == 'unet' else 'te'}_{path.replace('.', '_')}"


def write_kohya(
    file: Path,
    *,
    seed: int = 0,
    rank: int = 4,
    alpha: float | None = 2.0,
    alphas: Mapping[str, Any] | None = None,
    dtype: str = "F32",
    metadata: Mapping[str, str] | None = None,
    sites: Sequence[str] | None = None,
    more: Mapping[str, Tensor] | None = None,
) -> Updates:
    """Writes a kohya file, and returns the update of each of its sites.

    Args:
        file: Where.
        seed: Of its factors.
        rank: r.
        alpha: Of every site; None to write none.
        alphas: Alpha tensors of sites by their flattened name, in place of that.
        dtype: Element type, of alpha too, as kohya's tools have it.
        metadata: Of the header; by default what a trainer for Stable Diffusion 1 writes.
        sites: Modules to have, as in `factors`; None for all.
        more: Tensors by their key, beside those.
    """
    pairs = factors(seed, rank, dtype)
    tensors = dict(more or {})
    out = {}
    for site in pairs if sites is None else sites:
        name, (a, b) = kohya_name(site), pairs[site]
        tensors |= {f"{name}.lora_down.weight": a, f"{name}.lora_up.weight": b}
        own = None if alpha is None else torch.tensor(alpha, dtype=DTYPES[dtype])
        own = (alphas or {}).get(name, own)
        if own is not None:
            tensors[f"{name}.alpha"] = own
        scaling = 1.0 if own is None else float(own) / rank
        out[name] = updates({name: (a, b)}, scaling)[name]
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        tensors, file, dict({"ss_base_model_version": "sd_v1"} if metadata is None else metadata)
    )
    return out


def write_diffusers(
    file: Path,
    *,
    seed: int = 0,
    rank: int = 4,
    style: str = "new",
    scaling: float = 1.0,
    dtype: str = "F32",
    metadata: Mapping[str, str] | None = None,
    sites: Sequence[str] | None = None,
    more: Mapping[str, Tensor] | None = None,
) -> Updates:
    """Writes a diffusers file, and returns the update of each of its sites.

    Args:
        file: Where.
        seed: Of its factors.
        rank: r.
        style: `new`, `flat` (of a text encoder without `text_model.`), `older`, `oldest` (attention
            only), or `bare` (the same without a component).
        scaling: What `metadata` or `more` make of it.
        dtype: Element type.
        metadata: Of the header.
        sites: Modules to have, as in `factors`; None for all that the style can name.
        more: Tensors by their key, beside those.
    """
    pairs = factors(seed, rank, dtype)
    if sites is None:
        sites = (
            [f"unet.{path}" for path in ATTENTION] if style in ("oldest", "bare") else list(pairs)
        )
    tensors = dict(more or {})
    for site in sites:
        key_a, key_b = keys_of(site, style)
        tensors |= {key_a: pairs[site][0], key_b: pairs[site][1]}
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file, dict(metadata or {"format": "pt"}))
    return updates({site: pairs[site] for site in sites}, scaling)


def keys_of(site: str, style: str) -> tuple[str, str]:
    """The keys of a site's factors in one of the styles of `write_diffusers`."""
    if style == "flat":
        site = site.replace("text_model.", "")
    if style in ("oldest", "bare"):
        module, _, name = site.removesuffix(".0").rpartition(".")
        module = module.removeprefix("unet.") if style == "bare" else module
        return tuple(f"{module}.processor.{name}_lora.{half}.weight" for half in ("down", "up"))  # type: ignore[return-value]
    if style == "older":
        name = "lora_linear_layer" if site.startswith("text_encoder") else "lora"
        return f"{site}.{name}.down.weight", f"{site}.{name}.up.weight"
    return f"{site}.lora_A.weight", f"{site}.lora_B.weight"


def update_of(file: Path) -> Updates:
    """Each site's update of a file on disk: kohya's, or diffusers' newest with alpha the rank."""
    tensors = load_file(file)
    out: Updates = {}
    for key, a in tensors.items():
        for down, up in (
            (".lora_down.weight", ".lora_up.weight"),
            (".lora_A.weight", ".lora_B.weight"),
        ):
            if key.endswith(down):
                site = key.removesuffix(down)
                alpha = float(tensors.get(f"{site}.alpha", torch.tensor(float(len(a)))))
                out |= updates({site: (a, tensors[site + up])}, alpha / len(a))
    return out


def summed(parts: Sequence[Updates]) -> Updates:
    """The sum of several adapters' updates, site by site."""
    out: Updates = {}
    for part in parts:
        for site, update in part.items():
            out[site] = out.get(site, 0) + update
    return out
