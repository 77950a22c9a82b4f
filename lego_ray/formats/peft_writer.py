"""A merged adapter in the form that PEFT, vLLM, SGLang and llama.cpp's converter take as it is.

One rank for all sites (zero rows fill up the smaller ones), alpha equal to it, so that scaling is 1
whichever rule a reader follows, and no field that any of them refuses.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from safetensors.torch import save
from torch import Tensor

from lego_ray.errors import InvalidOption, ShapeMismatch
from lego_ray.formats.decode import DTYPES, check_finite
from lego_ray.formats.peft_config import CONFIG_NAME, WEIGHTS_NAME
from lego_ray.formats.peft_keys import factor_key, full_weight_key
from lego_ray.formats.peft_patterns import exact_key
from lego_ray.formats.record import SiteKind


@dataclass(frozen=True, slots=True, eq=False)
class MergedSite:
    """A merged factor pair with scaling folded in: `dW = b @ a`.

    Attributes:
        site: The target module's path in the base model.
        kind: As in `SiteFactors`.
        a: Shape (k, d_in), any floating type.
        b: Shape (d_out, k).
        a_shape_tail: For a convolution, the shape of one row of A as stored (in, kernel sizes);
            empty for the others.
        b_ndim: Number of axes of B as stored: 2, or a convolution's 3 to 5.
    """

    site: str
    kind: SiteKind
    a: Tensor
    b: Tensor
    a_shape_tail: tuple[int, ...] = ()
    b_ndim: int = 2


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
    if dtype not in DTYPES:
        raise InvalidOption("dtype", f"got {dtype!r}, expected one of {', '.join(DTYPES)}")
    if not sites:
        raise ShapeMismatch(base_model or "merged adapter", "there is no site to write")
    tensors = {full_weight_key(key): t.contiguous() for key, t in (full_weights or {}).items()}
    names = sorted(site.site for site in sites)
    patterns: dict[str, int] = {}
    for site in sorted(sites, key=lambda s: s.site):
        k = _check(site, rank)
        stored = k if compact else rank
        if stored != rank:
            patterns[exact_key(site.site, names)] = stored
        is_embedding = site.kind == "embedding"
        key_a = factor_key(site.site, "A", is_embedding=is_embedding)
        key_b = factor_key(site.site, "B", is_embedding=is_embedding)
        if key_a in tensors:
            raise ShapeMismatch(site.site, "the site is given twice")
        a = _cast(site.a, dtype, key_a)
        b = _cast(site.b, dtype, key_b)
        full_a = a.new_zeros((stored, a.shape[1]))
        full_a[:k] = a
        full_b = b.new_zeros((b.shape[0], stored))
        full_b[:, :k] = b
        tail = site.a_shape_tail or (a.shape[1],)
        tensors[key_a] = full_a.reshape(stored, *tail)
        tensors[key_b] = full_b.reshape(b.shape[0], stored, *(1,) * (site.b_ndim - 2))

    config = {
        "alpha_pattern": patterns,
        "base_model_name_or_path": base_model or None,
        "bias": bias,
        "fan_in_fan_out": fan_in_fan_out,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "modules_to_save": list(modules_to_save) if modules_to_save else None,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": patterns,
        "target_modules": names,
        "task_type": task_type,
        "use_dora": False,
        "use_rslora": False,
    }
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    return {WEIGHTS_NAME: save(tensors, metadata={"format": "pt"}), CONFIG_NAME: text.encode()}


def _check(site: MergedSite, rank: int) -> int:
    """The site's own rank, once its shapes are known to fit."""
    if site.a.ndim != 2 or site.b.ndim != 2 or site.a.shape[0] != site.b.shape[1]:
        problem = f"A has shape {list(site.a.shape)} and B {list(site.b.shape)}, expected a pair"
        raise ShapeMismatch(site.site, problem)
    k = site.a.shape[0]
    if not 1 <= k <= rank:
        raise ShapeMismatch(site.site, f"its rank is {k}, expected 1 to {rank}")
    if site.a_shape_tail and torch.Size(site.a_shape_tail).numel() != site.a.shape[1]:
        problem = f"a row of A has {site.a.shape[1]} values, {list(site.a_shape_tail)} takes others"
        raise ShapeMismatch(site.site, problem)
    if site.b_ndim != (len(site.a_shape_tail) + 1 if site.a_shape_tail else 2):
        raise ShapeMismatch(site.site, f"B of {site.b_ndim} axes does not go with A as stored")
    return k


def _cast(tensor: Tensor, dtype: str, name: str) -> Tensor:
    check_finite(tensor, "merged adapter", name)
    out = tensor.detach().to("cpu", DTYPES[dtype])
    if not bool(torch.isfinite(out).all()):
        largest = float(tensor.abs().max())
        problem = f"{dtype} cannot hold {name}, whose largest value is {largest:g}"
        raise InvalidOption("dtype", problem, "Store the merged adapter as BF16 or F32.")
    return out
