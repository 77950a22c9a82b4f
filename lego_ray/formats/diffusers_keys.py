"""The tensor keys of diffusers' files, old and new: which factor of which site.

A site is `<component>.<module path>`, as the newest files have it. Three older spellings of the same
are brought to it:

- `<path>.lora.down.weight`, `<path>.lora_linear_layer.up.weight`;
- `<path>.processor.to_q_lora.down.weight`, of attention processors, with or without a component;
- `encoder.layers...` of a CLIP text encoder, as transformers has it from 5 on, for
  `text_model.encoder.layers...`.
"""

from __future__ import annotations

import re
from typing import Literal

from lego_ray.formats.factors import FactorKey
from lego_ray.formats.suffixes import DOWN_UP, PROCESSOR, XLABS, Factor, parse_suffix

WEIGHTS_NAME = "pytorch_lora_weights.safetensors"

# The parts of pipelines that diffusers loads a LoRA into.
COMPONENTS = (
    *("unet", "prior", "transformer", "transformer_2", "transformer_ref", "connectors"),
    *("text_encoder", "text_encoder_2", "text_encoder_3", "text_conditioner"),
)

# Those that files have too, in trainers' own pipelines: HiDream's Llama (OneTrainer).
READ_COMPONENTS = (*COMPONENTS, "text_encoder_4")

_IN_TEXT_ENCODERS = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
_ELSEWHERE = {"to_out": "to_out.0"}

# Blocks of a UNet, in files of the time when nothing else had a LoRA.
UNET_BLOCKS = re.compile(r"(down_blocks|mid_block|up_blocks)\.")
_CLIP_LAYER = re.compile(
    r"(text_encoder(?:_\d)?)\.(encoder\.layers\.\d+\.(?:self_attn\.\w+|mlp\.fc[12]))"
)


def parse_factor(key: str) -> FactorKey | None:
    """Reads a factor's key; None for any other key, or one that names no component."""
    found = parse_suffix(key)
    if found is None or found.suffix in (DOWN_UP, XLABS):
        return None
    site = site_of(found)
    return FactorKey(site, found.half, adapter=found.adapter) if site else None


def site_of(factor: Factor) -> str:
    """The site that a factor is of; empty if it names no component."""
    path = plain_path(factor)
    return path if component_of(path) in READ_COMPONENTS else ""


def plain_path(factor: Factor) -> str:
    """The path of a factor's module, component and all, without the names of older releases."""
    path = f"{factor.stem}.".replace(".processor.", ".").removesuffix(".")
    if factor.suffix is PROCESSOR:
        above, _, attention = path.rpartition(".")
        in_text = path.startswith("text_encoder")
        names = _IN_TEXT_ENCODERS if in_text else _ELSEWHERE
        path = f"{above}.{names.get(attention, attention)}"
        if UNET_BLOCKS.match(path):
            path = f"unet.{path}"
    if clip := _CLIP_LAYER.fullmatch(path):
        path = f"{clip[1]}.text_model.{clip[2]}"
    return path


def component_of(site: str) -> str:
    """The part of the pipeline that a site is in."""
    return site.partition(".")[0]


def module_of(site: str) -> str:
    """The path of a site's module in its component."""
    return site.partition(".")[2]


def factor_key(site: str, half: Literal["A", "B"]) -> str:
    """The key a factor is written under.

    Args:
        site: The module's path, with its component.
        half: Which factor.
    """
    return f"{site}.lora_{half}.weight"
