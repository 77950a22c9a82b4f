"""A merged adapter in diffusers' newest layout: one file, PEFT's key names, settings in the header."""

from __future__ import annotations

import json
from collections.abc import Sequence

from lego_ray.formats.diffusers_keys import component_of, factor_key, module_of
from lego_ray.formats.lone_config import METADATA
from lego_ray.formats.merged import MergedSite, in_order, stored_pair
from lego_ray.formats.peft_patterns import exact_key
from lego_ray.formats.safetensors_writer import serialize
from lego_ray.lazy import Tensor


def encode(
    sites: Sequence[MergedSite],
    *,
    rank: int,
    dtype: str,
    base_model: str,
    compact: bool = False,
) -> bytes:
    """Writes a merged adapter's file, to the same bytes for the same values.

    Args:
        sites: The merged sites, in any order, each of rank k at most `rank`.
        rank: The adapter's rank.
        dtype: Element type to store, `F32`, `F16` or `BF16`.
        base_model: Copied to each component's `base_model_name_or_path`.
        compact: Store each site at its own rank, listed in `rank_pattern` and `alpha_pattern`,
            instead of filling up with zeros.

    Raises:
        ShapeMismatch: If there are no sites or two of one name, or a pair does not fit together.
        InvalidOption: If `dtype` is unknown or cannot hold a value.
        NonFiniteWeights: If a factor holds NaN or infinity.
    """
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, dict[str, int]] = {}
    for site in in_order(sites, dtype, base_model):
        keys = (factor_key(site.site, "A"), factor_key(site.site, "B"))
        pair = stored_pair(site, rank, dtype, compact=compact, keys=keys)
        tensors.update(zip(keys, pair, strict=True))
        mine = ranks.setdefault(component_of(site.site), {})
        mine[_target(site.site)] = pair[0].shape[0]
    settings: dict[str, object] = {}
    for component, mine in ranks.items():
        patterns = {exact_key(name, mine): r for name, r in mine.items() if r != rank}
        # No other field of PEFT's: releases that lack one refuse the file.
        fields = {
            "alpha_pattern": patterns,
            "base_model_name_or_path": base_model or None,
            "lora_alpha": rank,
            "r": rank,
            "rank_pattern": patterns,
            "target_modules": list(mine),
        }
        settings.update({f"{component}.{name}": value for name, value in fields.items()})
    metadata = {"format": "pt", METADATA: json.dumps(settings, indent=2, sort_keys=True)}
    return serialize(tensors, metadata)


def _target(site: str) -> str:
    """A module's name as PEFT looks for it: without the part that transformers 5 has no more."""
    return module_of(site).removeprefix("text_model.")
