"""Single files of tiny LoRAs under any names and suffixes, and their updates in float64.

Nothing here uses lego_ray: what it computes is what lego_ray is held against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.image_zoo import Updates

# Ends of the keys of A and B, by what a test calls them.
ENDS: Mapping[str, tuple[str, str]] = {
    "down_up": (".lora_down.weight", ".lora_up.weight"),
    "a_b": (".lora_A.weight", ".lora_B.weight"),
    "default": (".lora_A.default.weight", ".lora_B.default.weight"),
    "no weight": (".lora_A", ".lora_B"),
    "dots": (".lora.down.weight", ".lora.up.weight"),
    "linear": (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
    "xlabs": (".down.weight", ".up.weight"),
}


def tensors_of(
    modules: Mapping[str, tuple[int, int]] | Sequence[str],
    *,
    ends: str = "a_b",
    rank: int = 2,
    alpha: float | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """A pair of factors for each module, of (d_in, d_out) or else of 8 by 8."""
    shapes = modules if isinstance(modules, Mapping) else dict.fromkeys(modules, (8, 8))
    generator = torch.Generator().manual_seed(seed)
    down, up = ENDS[ends]
    tensors: dict[str, Tensor] = {}
    for module, (d_in, d_out) in shapes.items():
        tensors[module + down] = (0.5 * torch.randn(rank, d_in, generator=generator)).to(dtype)
        tensors[module + up] = (0.5 * torch.randn(d_out, rank, generator=generator)).to(dtype)
        if alpha is not None:
            tensors[f"{module}.alpha"] = torch.tensor(float(alpha))
    return tensors


def write(file: Path, tensors: Mapping[str, Tensor], **metadata: str) -> Path:
    """Saves a file, its directory created if missing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), file, metadata or {"format": "pt"})
    return file


def updates_of(tensors: Mapping[str, Tensor]) -> Updates:
    """The update of each module, alpha over the rank times B A."""
    out: Updates = {}
    for key, a in tensors.items():
        for down, up in ENDS.values():
            module = key.removesuffix(down)
            if module != key and module + up in tensors:
                alpha = tensors.get(f"{module}.alpha")
                scale = 1.0 if alpha is None else float(alpha) / a.shape[0]
                b = tensors[module + up].double().flatten(1)
                out[module] = (scale * (b @ a.double().flatten(1))).numpy()
                break
    return out


def through(loader: Any, tensors: Mapping[str, Tensor], **options: Any) -> Updates:
    """What diffusers makes of a file, as updates by its own names of the modules."""
    state = loader.lora_state_dict({k: v.clone() for k, v in tensors.items()}, **options)
    if isinstance(state, tuple):
        state, alphas = state[:2]
        state = {
            **state,
            **{k.removesuffix(".alpha") + ".alpha": v for k, v in (alphas or {}).items()},
        }
    return updates_of(
        {k: v if isinstance(v, Tensor) else torch.tensor(float(v)) for k, v in state.items()}
    )


def load(output: Path) -> dict[str, Tensor]:
    """The tensors of a merge."""
    tensors: dict[str, Tensor] = load_file(next(output.glob("*.safetensors")))
    return tensors


def metadata_of(output: Path) -> dict[str, str]:
    """The header's metadata of a merge."""
    with safe_open(next(output.glob("*.safetensors")), "np") as opened:
        return dict(opened.metadata() or {})


def total(*parts: Updates) -> Updates:
    """The sum of updates, by module."""
    out: dict[str, np.ndarray] = {}
    for part in parts:
        for module, update in part.items():
            out[module] = out[module] + update if module in out else update
    return out
