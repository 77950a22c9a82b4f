"""A merged adapter in the form that PEFT, vLLM, SGLang and llama.cpp's converter take as it is.

One rank for all sites (zero rows fill up the smaller ones), alpha equal to it, so that scaling is 1
whichever rule a reader follows, and no field that any of them refuses.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from safetensors.torch import save
from torch import Tensor

from lego_ray.formats.merged import MergedSite, in_order, stored_pair
from lego_ray.formats.peft_config import CONFIG_NAME, WEIGHTS_NAME
from lego_ray.formats.peft_keys import factor_key, full_weight_key
from lego_ray.formats.peft_output import config_of
from lego_ray.formats.peft_patterns import exact_key


def encode(
    sites: Sequence[MergedSite],
    *,
    rank: int,
    dtype: str,
    base_model: str,
    task_type: str | None,
    fan_in_fan_out: bool,
    compact: bool = False,
    full_weights: Mapping[str, Tensor] | None = None,
    modules_to_save: Sequence[str] | None = None,
    bias: str = "none",
) -> dict[str, bytes]:
    """Writes a merged adapter's two files, to the same bytes for the same values.

    Args:
        sites: The merged sites, in any order, each of rank k at most `rank`.
        rank: The adapter's rank.
        dtype: Element type to store, `F32`, `F16` or `BF16`.
        base_model: Copied to `base_model_name_or_path`.
        task_type: Copied, may be None.
        fan_in_fan_out: Copied.
        compact: Store each site at its own rank, listed in `rank_pattern` and `alpha_pattern`,
            instead of filling up with zeros. Smaller; readers that ignore the patterns refuse it.
        full_weights: Tensors to carry over as they are, by their key in the file they come from.
        modules_to_save: Copied; what `full_weights` hold.
        bias: Copied.

    Returns:
        File name to bytes, in the order to publish them: the configuration is last.

    Raises:
        ShapeMismatch: If there are no sites or two of one name, or a pair does not fit together.
        InvalidOption: If `dtype` is unknown or cannot hold a value.
        NonFiniteWeights: If a factor holds NaN or infinity.
    """
    ordered = in_order(sites, dtype, base_model)
    names = [site.site for site in ordered]
    tensors = {full_weight_key(key): t.contiguous() for key, t in (full_weights or {}).items()}
    patterns: dict[str, int] = {}
    for site in ordered:
        is_embedding = site.kind == "embedding"
        keys = (
            factor_key(site.site, "A", is_embedding=is_embedding),
            factor_key(site.site, "B", is_embedding=is_embedding),
        )
        pair = stored_pair(site, rank, dtype, compact=compact, keys=keys)
        tensors.update(zip(keys, pair, strict=True))
        if pair[0].shape[0] != rank:
            patterns[exact_key(site.site, names)] = pair[0].shape[0]
    config = config_of(
        names,
        rank=rank,
        patterns=patterns,
        base_model=base_model,
        task_type=task_type,
        fan_in_fan_out=fan_in_fan_out,
        modules_to_save=modules_to_save,
        bias=bias,
    )
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    return {WEIGHTS_NAME: save(tensors, metadata={"format": "pt"}), CONFIG_NAME: text.encode()}
