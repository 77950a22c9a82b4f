"""The tensor keys of a PEFT file: which factor of which site, or which full weight."""

from __future__ import annotations

import re
from typing import Literal

from lego_ray.formats.factors import FactorKey
from lego_ray.formats.peft_config import PeftConfig
from lego_ray.formats.peft_parameters import BASE_LAYER
from lego_ray.formats.wrappers import unwrapped

PREFIX = "base_model.model."

_PLAIN = re.compile(r"(?P<site>.+)\.lora_(?P<half>[AB])(?:\.(?P<adapter>[^.]+))?\.weight")
_EMBEDDING = re.compile(r"(?P<site>.+)\.lora_embedding_(?P<half>[AB])(?:\.(?P<adapter>[^.]+))?")

# Kept by VeLoRA for its backward pass; the forward pass is LoRA's.
_TRAINING_ONLY = re.compile(r".+\.lora_velora_embed(\.[^.]+)?")

# Modules PEFT saves whole without being asked to, when their size or targeting makes it think it must.
_EMBEDDING_NAMES = ("embed_tokens", "lm_head")

_WRAPPED = re.compile(r"\.modules_to_save(?:\.[^.]+)?\.(?=[^.]+$)")


def parse_factor(key: str) -> FactorKey | None:
    """Reads a factor's key; None for any other key."""
    path = key.removeprefix(PREFIX)
    for pattern in (_PLAIN, _EMBEDDING):
        if found := pattern.fullmatch(path):
            return FactorKey(
                found["site"], found["half"], pattern is _EMBEDDING, found["adapter"] or ""
            )
    return None


def factor_key(site: str, half: Literal["A", "B"], *, is_embedding: bool) -> str:
    """The key PEFT saves a factor under.

    Args:
        site: The module's path, without PEFT's prefix.
        half: Which factor.
        is_embedding: Whether the module is an embedding, which PEFT names otherwise.
    """
    name = f"lora_embedding_{half}" if is_embedding else f"lora_{half}.weight"
    return f"{PREFIX}{site}.{name}"


def is_training_only(key: str) -> bool:
    """Whether the tensor is of no use once training is over."""
    return _TRAINING_ONLY.fullmatch(key) is not None


def is_full_weight(key: str, config: PeftConfig) -> bool:
    """Whether the tensor replaces one of the base model's: a saved module, a bias, an embedding.

    Args:
        key: The tensor's.
        config: The adapter's configuration.
    """
    path = key.removeprefix(PREFIX)
    module, _, parameter = path.rpartition(".")
    if config.bias != "none" and parameter == "bias":
        return True
    parts = module.split(".")
    if "modules_to_save" in parts or parts[-1] == BASE_LAYER or is_embedding_weight(key):
        return True
    return any(f".{name}." in f".{module}." for name in config.modules_to_save)


def is_embedding_weight(key: str) -> bool:
    """Whether the tensor is a whole embedding or output layer, which PEFT saves unasked."""
    module, _, parameter = key.removeprefix(PREFIX).rpartition(".")
    return is_embedding_name(module) and parameter == "weight"


def is_embedding_name(module: str) -> bool:
    """Whether a module is the embedding or the output layer, by the names that PEFT knows."""
    return module.rpartition(".")[2] in _EMBEDDING_NAMES


def full_weight_key(key: str) -> str:
    """The key PEFT saves a full weight under today, without the wrapper and adapter names of dumps."""
    return _WRAPPED.sub(".", unwrapped(key))
