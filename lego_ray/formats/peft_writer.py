"""A merged adapter in the form that PEFT, vLLM, SGLang and llama.cpp's converter take as it is.

One rank for all sites (zero rows fill up the smaller ones), alpha equal to it, so that scaling is 1
whichever rule a reader follows, and no field that any of them refuses.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from lego_ray.formats.merged import MergedSite, in_order, stored_pair
from lego_ray.formats.peft_config import CONFIG_NAME, WEIGHTS_NAME
from lego_ray.formats.peft_keys import full_weight_key
from lego_ray.formats.peft_output import config_of, keys_of
from lego_ray.formats.peft_parameters import stored_pairs
from lego_ray.formats.peft_ranks import stored_ranks
from lego_ray.lazy import Tensor, torch


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
    beside: Mapping[str, object] = MappingProxyType({}),
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
            instead of filling up with zeros; see `peft_ranks` for sites that share a rank. Smaller;
            readers that ignore the patterns refuse it.
        full_weights: Tensors to carry over as they are, by their key in the file they come from.
        modules_to_save: Copied; what `full_weights` hold.
        bias: Copied.
        beside: Further fields of the configuration.

    Returns:
        File name to bytes, in the order to publish them: the configuration is last.

    Raises:
        ShapeMismatch: If there are no sites or two of one name, or a pair does not fit together.
        InvalidOption: If `dtype` is unknown or cannot hold a value.
        NonFiniteWeights: If a factor holds NaN or infinity.
    """
    ordered = in_order(sites, dtype, base_model)
    by_name = {site.site: site for site in ordered}
    stored = stored_pairs({site.site: site.kind for site in ordered})
    own_ranks = {site.site: site.a.shape[0] if compact else rank for site in ordered}
    ranks = stored_ranks(stored, own_ranks, rank)
    tensors = {full_weight_key(key): t.contiguous() for key, t in (full_weights or {}).items()}
    for each in stored:
        mine = [by_name[name] for name in each.sites]
        keys = keys_of(each, mine[0].kind)
        own = ranks.by_name[each.name]
        pairs = [stored_pair(site, own, dtype, compact=False, keys=keys) for site in mine]
        tensors.update(zip(keys, pairs[0] if len(mine) == 1 else _packed(pairs), strict=True))
    config = config_of(
        stored,
        ranks=ranks,
        base_model=base_model,
        task_type=task_type,
        fan_in_fan_out=fan_in_fan_out,
        modules_to_save=modules_to_save,
        bias=bias,
        beside=beside,
    )
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    from safetensors.torch import save  # imports torch

    return {WEIGHTS_NAME: save(tensors, metadata={"format": "pt"}), CONFIG_NAME: text.encode()}


def _packed(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The pairs of all experts in one, as PEFT stores them: see `peft_experts`."""
    a = torch.cat([a for a, _ in pairs])
    b = torch.stack([b for _, b in pairs], dim=2)  # (d_out, r, E)
    return a, b.reshape(b.shape[0], -1)
