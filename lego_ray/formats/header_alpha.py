"""An alpha for all modules that is in the header of a single file, and no tensor of it has.

Source: diffusers' `MiniMaxH3LoraLoaderMixin.lora_state_dict`, which takes `alpha` of that model's
files. Readers of other models take the rank, except for sglang, which takes any of these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from lego_ray.formats.architectures.minimax import MINIMAX_H3
from lego_ray.formats.module_names import DENOISER, parse_name
from lego_ray.formats.site_factors import SiteFactors

# Begins the note of a file whose scaling is of its header.
HEADER_ALPHA = "its header gives an alpha for all modules:"

_OF_H3 = "alpha"
_NAMES = (_OF_H3, "lora_alpha", "network_alpha")


def with_header_alpha(
    sites: tuple[SiteFactors, ...], metadata: Mapping[str, str], base_model: str
) -> tuple[tuple[SiteFactors, ...], tuple[str, ...]]:
    """The sites of a file without tensors of alpha, scaled as its readers do.

    Args:
        sites: Its sites, of which none has an alpha.
        metadata: Its header's.
        base_model: Name of its base model; may be empty.

    Returns:
        The sites, and notes of what was taken or left.
    """
    given = {name: value for name in _NAMES if (value := _number(metadata.get(name, "")))}
    if (alpha := given.get(_OF_H3)) and _is_h3(sites, base_model):
        scaled = (s if s.expansion else replace(s, scaling=alpha / s.rank) for s in sites)
        note = f"{HEADER_ALPHA} {alpha:g} over the rank is the scaling, as diffusers takes it"
        return tuple(scaled), (note,)
    for name, value in given.items():
        if any(value != site.rank for site in sites):
            note = (
                f"its header has {name} {value:g}, and no tensor has an alpha: alpha is taken to be the "
                "rank, as ComfyUI and diffusers take it; sglang scales by that number"
            )
            return sites, (note,)
    return sites, ()


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if math.isfinite(value) else 0.0


def _is_h3(sites: Sequence[SiteFactors], base_model: str) -> bool:
    """Whether a file is of MiniMax-H3, as names show that only this model has, or its base model's."""
    names = [name for site in sites if (name := parse_name(site.site)).component == DENOISER]
    readings = [MINIMAX_H3.read(name.path) for name in names]
    if not readings or None in readings:
        return False
    own = (r.side == "original" or "refiner" in r.row.original for r in readings if r)
    return any(own) or MINIMAX_H3.is_named(base_model)
