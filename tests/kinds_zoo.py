"""Single files of LoHa, LoKr and CP-decomposed LoCon, and their updates in dense float64.

The formulas are LyCORIS's and PEFT's, written out; nothing here uses lego_ray.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from tests.image_zoo import Updates

Shape = tuple[int, ...]  # of a module's weight: (d_out, d_in, *kernel)

# (out, in, *kernel) of modules, by the last part of their names in Stable Diffusion's UNet.
SHAPES: Mapping[str, tuple[str, Shape]] = {
    "linear": ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q", (12, 8)),
    "conv 1x1": ("lora_unet_down_blocks_0_resnets_0_conv_shortcut", (12, 8, 1, 1)),
    "conv 3x3": ("lora_unet_down_blocks_0_resnets_0_conv1", (12, 8, 3, 3)),
}

Draw = Callable[..., Tensor]


def _draw(seed: int, dtype: torch.dtype) -> Draw:
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: (0.5 * torch.randn(*shape, generator=generator)).to(dtype)


def loha(
    shape: Shape, draw: Draw, rank: int = 2, *, effective: bool = False
) -> tuple[dict[str, Tensor], int]:
    """Tensors by suffix, and the rank that alpha is divided by."""
    out, inner, *kernel = shape
    parts = {}
    for n in (1, 2):
        if effective:
            parts[f"hada_t{n}"] = draw(rank, rank, *kernel)
            parts[f"hada_w{n}_a"] = draw(rank, out)
            parts[f"hada_w{n}_b"] = draw(rank, inner)
        else:
            parts[f"hada_w{n}_a"] = draw(out, rank)
            parts[f"hada_w{n}_b"] = draw(rank, inner * int(np.prod(kernel)))
    return parts, rank


def lokr(
    shape: Shape,
    draw: Draw,
    rank: int = 2,
    *,
    both: bool = False,
    whole: bool = False,
    effective: bool = False,
) -> tuple[dict[str, Tensor], int]:
    """Tensors by suffix, and the rank that alpha is divided by; 0 where alpha does not count."""
    out, inner, *kernel = shape
    (a, b), (c, d) = (4, 4), (out // 4, inner // 4)
    parts = {"lokr_w1": draw(a, b)}
    if both:
        parts = {"lokr_w1_a": draw(a, rank), "lokr_w1_b": draw(rank, b)}
    if whole:
        parts["lokr_w2"] = draw(c, d, *kernel)
    elif effective:
        parts |= {"lokr_t2": draw(rank, rank, *kernel)}
        parts |= {"lokr_w2_a": draw(rank, c), "lokr_w2_b": draw(rank, d)}
    else:
        size = int(np.prod(kernel))
        parts |= {"lokr_w2_a": draw(c, rank), "lokr_w2_b": draw(rank, d * size)}
    return parts, 0 if whole and not both else rank


def cp(shape: Shape, draw: Draw, rank: int = 2) -> tuple[dict[str, Tensor], int]:
    """Tensors by suffix, and the rank that alpha is divided by."""
    out, inner, *kernel = shape
    ones = (1,) * len(kernel)
    parts = {
        "lora_up.weight": draw(out, rank, *ones),
        "lora_down.weight": draw(rank, inner, *ones),
        "lora_mid.weight": draw(rank, rank, *kernel),
    }
    return parts, rank


def plain(shape: Shape, draw: Draw, rank: int = 2) -> tuple[dict[str, Tensor], int]:
    """A plain pair by suffix, and its rank."""
    out, inner, *kernel = shape
    ones = (1,) * len(kernel)
    return {
        "lora_up.weight": draw(out, rank, *ones),
        "lora_down.weight": draw(rank, inner, *kernel),
    }, rank


Make = Callable[[Shape, Draw], tuple[dict[str, Tensor], int]]

# By name: how it is made, the shapes of modules it is for, and the rank it takes of these.
KINDS: Mapping[str, tuple[Make, tuple[str, ...]]] = {
    "loha": (loha, ("linear", "conv 1x1", "conv 3x3")),
    "loha beyond full rank": (lambda s, d: loha(s, d, 4), ("linear", "conv 1x1", "conv 3x3")),
    "loha effective": (lambda s, d: loha(s, d, effective=True), ("conv 3x3",)),
    "lokr": (lokr, ("linear", "conv 1x1", "conv 3x3")),
    "lokr both": (lambda s, d: lokr(s, d, both=True), ("linear", "conv 1x1", "conv 3x3")),
    "lokr whole": (lambda s, d: lokr(s, d, whole=True), ("linear", "conv 1x1", "conv 3x3")),
    "lokr both, w2 whole": (lambda s, d: lokr(s, d, both=True, whole=True), ("linear", "conv 3x3")),
    "lokr rank above its sides": (lambda s, d: lokr(s, d, 5), ("linear", "conv 3x3")),
    "lokr effective": (lambda s, d: lokr(s, d, effective=True), ("conv 3x3",)),
    "cp": (cp, ("conv 3x3",)),
    "plain": (plain, ("linear", "conv 3x3")),
}


def kind_file(
    kind: str,
    shapes: tuple[str, ...] | None = None,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    alpha: Tensor | None = None,
) -> tuple[dict[str, Tensor], Updates]:
    """The tensors of an adapter of a kind, and its updates (d_out, d_in) by module."""
    make, fitting = KINDS[kind]
    tensors: dict[str, Tensor] = {}
    updates: Updates = {}
    for at, name in enumerate(shapes or fitting):
        module, shape = SHAPES[name]
        parts, divisor = make(shape, _draw(100 * seed + at, dtype))
        tensors |= {f"{module}.{suffix}": tensor for suffix, tensor in parts.items()}
        scale = 1.0
        if alpha is not None:
            tensors[f"{module}.alpha"] = alpha.clone()
            scale = float(alpha) / divisor if divisor else 1.0
        updates[module] = scale * dense(parts).reshape(shape[0], -1).numpy()
    return tensors, updates


def dense(parts: Mapping[str, Tensor]) -> Tensor:
    """The weight's update in float64, without its scaling."""
    p = {name: tensor.double() for name, tensor in parts.items()}
    if "lora_mid.weight" in p:
        up, down = p["lora_up.weight"].flatten(1), p["lora_down.weight"].flatten(1)
        return torch.einsum("pq...,op,qi->oi...", p["lora_mid.weight"], up, down)
    if "lora_up.weight" in p:
        return p["lora_up.weight"].flatten(1) @ p["lora_down.weight"].flatten(1)
    if "hada_w1_a" in p:
        return _low_rank(p, "hada_w1", "hada_t1") * _low_rank(p, "hada_w2", "hada_t2")
    one = p["lokr_w1"] if "lokr_w1" in p else p["lokr_w1_a"] @ p["lokr_w1_b"]
    two = p["lokr_w2"] if "lokr_w2" in p else _low_rank(p, "lokr_w2", "lokr_t2")
    return torch.kron(one.reshape(*one.shape, *(1,) * (two.ndim - 2)), two.contiguous())


def _low_rank(p: Mapping[str, Tensor], name: str, core: str) -> Tensor:
    if core in p:
        return torch.einsum("ij...,ip,jr->pr...", p[core], p[f"{name}_a"], p[f"{name}_b"])
    return p[f"{name}_a"] @ p[f"{name}_b"]
