"""Zoos with families planted in them: adapters that are one adapter and some noise each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.zoo import WEIGHTS, write_adapter

# Two families that a directory listing mixes, and one that is no one's near kin.
FAMILIES = {
    "a-french": (1, 0.3),
    "b-german": (2, 0.3),
    "c-french": (1, 0.3),
    "d-german": (2, 0.3),
    "e-french": (1, 0.3),
}
STRANGER = {"f-half-german": (2, 2.0)}


def write_family_zoo(root: Path, adapters: Mapping[str, tuple[int, float]] = FAMILIES) -> Path:
    """Writes adapters, each of a family, which is a seed, with so much noise on its factors."""
    for number, (name, (family, noise)) in enumerate(adapters.items()):
        file = write_adapter(root / name, seed=family) / WEIGHTS
        generator = torch.Generator().manual_seed(number)
        tensors = {
            key: tensor + noise * tensor.std() * torch.randn(tensor.shape, generator=generator)
            for key, tensor in sorted(load_file(file).items())
        }
        save_file(tensors, file, {"format": "pt"})
    return root
