"""A merged adapter in kohya's layout: one file, alpha equal to the rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from lego_ray.formats.base_model import FIELDS
from lego_ray.formats.kohya import CARRIED_FIELDS
from lego_ray.formats.merged import MergedSite, in_order, stored_pair
from lego_ray.formats.readers.kohya import wants_alphas
from lego_ray.formats.safetensors_writer import serialize
from lego_ray.formats.suffixes import ALPHA
from lego_ray.lazy import Tensor, torch


def encode(
    sites: Sequence[MergedSite],
    *,
    rank: int,
    dtype: str,
    base_model: str,
    carried: Mapping[str, object],
    compact: bool = False,
    beside: Mapping[str, Tensor] = MappingProxyType({}),
) -> bytes:
    """Writes a merged adapter's file, to the same bytes for the same values.

    Args:
        sites: The merged sites, in any order, each of rank k at most `rank`.
        rank: The adapter's rank.
        dtype: Element type to store, `F32`, `F16` or `BF16`. Alpha is float32 whatever it is: bfloat16
            has no 257.
        base_model: Name of the base model; goes into the header, unless a field taken over has it.
        carried: What the sources' headers agree on; of it `kohya.CARRIED_FIELDS` are written.
        compact: Store each site at its own rank instead of filling up with zeros. Where these differ,
            alphas are written as `readers.kohya.wants_alphas` says.
        beside: Further tensors, such as differences of biases, as they are stored.

    Raises:
        ShapeMismatch: If there are no sites or two of one name, or a pair does not fit together.
        InvalidOption: If `dtype` is unknown or cannot hold a value.
        NonFiniteWeights: If a factor holds NaN or infinity.
    """
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for site in in_order(sites, dtype, base_model):
        keys = (f"{site.site}.lora_down.weight", f"{site.site}.lora_up.weight")
        pair = stored_pair(site, rank, dtype, compact=compact, keys=keys)
        tensors.update(zip(keys, pair, strict=True))
        ranks[site.site] = pair[0].shape[0]
    sizes = set(ranks.values())
    if wants_alphas(ranks, is_mixed=len(sizes) > 1):
        tensors |= {f"{name}{ALPHA}": torch.tensor(float(k)) for name, k in ranks.items()}
    metadata = {name: str(carried[name]) for name in CARRIED_FIELDS if carried.get(name)}
    if base_model not in {value.removesuffix("/lora") for value in metadata.values()}:
        metadata = {name: text for name, text in metadata.items() if name not in FIELDS}
        metadata.update({FIELDS[0]: base_model} if base_model else {})
    size = str(*sizes) if len(sizes) == 1 else "Dynamic"  # kohya's own word for several
    metadata |= {"ss_network_module": "networks.lora", "ss_network_dim": size}
    metadata |= {"ss_network_alpha": size, "format": "pt"}
    return serialize({**tensors, **beside}, metadata)
