"""Single files with differences of weights, biases and norms, and what ComfyUI makes of such a file.

Nothing here uses lego_ray: what it computes is what lego_ray is held against.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tests.lone_zoo import updates_of

Tensors = dict[str, Tensor]


def random(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Values of a normal distribution."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def patches_of(tensors: Mapping[str, Tensor], strength: float = 1.0) -> Tensors:
    """What ComfyUI adds to the weights and biases of a base model, in float64.

    As `load_lora` and `calculate_weight` of ComfyUI do (comfy/lora.py): `.diff` takes the place of a
    pair of factors and of `.w_norm`, `.b_norm` counts only beside `.w_norm`, and `.diff_b` takes its
    place; each is multiplied by the strength alone.
    """
    found = {f"{m}.weight": torch.from_numpy(update) for m, update in updates_of(tensors).items()}
    for end, part in ((".w_norm", "weight"), (".b_norm", "bias"), (".diff", "weight")):
        for key, value in tensors.items():
            module = key.removesuffix(end)
            if module == key or (end == ".b_norm" and f"{module}.w_norm" not in tensors):
                continue
            found[f"{module}.{part}"] = value.double()
    for key, value in tensors.items():
        if key.endswith(".diff_b"):
            found[f"{key.removesuffix('.diff_b')}.bias"] = value.double()
    return {key: strength * value.double() for key, value in found.items()}


def sum_of(*parts: Mapping[str, Tensor]) -> Tensors:
    """The sum, by weight."""
    out: Tensors = {}
    for part in parts:
        for key, value in part.items():
            out[key] = out[key] + value if key in out else value
    return out
