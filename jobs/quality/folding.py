"""An adapter folded into its base model's weights: `W + scale * B A`.

Each evaluation has the speed of the bare model then, and an adapter at any scale needs no other merge.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn


@dataclass(frozen=True)
class Factors:
    """An adapter's factor pairs by module path, scaling folded into B: `dW = B A`, float32."""

    pairs: dict[str, tuple[Tensor, Tensor]]

    @property
    def norm(self) -> float:
        """Frobenius norm of the update over all sites."""
        squares = [
            ((a.double() @ a.double().T) * (b.double().T @ b.double())).sum()
            for a, b in self.pairs.values()
        ]
        return float(torch.stack(squares).sum().sqrt())


def read_factors(folder: Path) -> Factors:
    """Reads a PEFT adapter of one rank and alpha."""
    config = json.loads((folder / "adapter_config.json").read_text())
    scale = config["lora_alpha"] / config["r"]
    tensors = load_file(folder / "adapter_model.safetensors")
    pairs = {}
    for key in tensors:
        if key.endswith(".lora_A.weight"):
            site = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            b = tensors[key.replace(".lora_A.", ".lora_B.")].float()
            pairs[site] = (tensors[key].float(), scale * b)
    return Factors(pairs)


class Foldable:
    """A model that takes adapters into its weights, one after another.

    Args:
        model: The base model; it is changed.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._weights = {n: p.detach().clone() for n, p in model.named_parameters()}

    @torch.no_grad()
    def take(self, adapter: Path | None, scale: float) -> None:
        """Gives the model its own weights, plus an adapter's update times a factor.

        Raises:
            ValueError: If the adapter has sites that the model has not.
        """
        pairs = dict(read_factors(adapter).pairs) if adapter else {}
        for name, parameter in self.model.named_parameters():
            parameter.copy_(self._weights[name])
            if (site := name.removesuffix(".weight")) in pairs:
                a, b = pairs.pop(site)
                parameter.add_(b @ a, alpha=scale)
        if pairs:
            raise ValueError(f"{adapter} has sites that the model has not: {sorted(pairs)[:3]}")
