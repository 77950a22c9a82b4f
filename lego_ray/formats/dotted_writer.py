"""A merged adapter under the names of its sources: one file of factors, alpha multiplied in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from lego_ray.formats.base_model import FIELDS
from lego_ray.formats.merged import MergedSite, in_order, stored_pair
from lego_ray.formats.safetensors_writer import serialize
from lego_ray.lazy import Tensor


def encode(
    sites: Sequence[MergedSite],
    *,
    rank: int,
    dtype: str,
    base_model: str,
    ends: tuple[str, str],
    carried: Mapping[str, object],
    compact: bool = False,
    beside: Mapping[str, Tensor] = MappingProxyType({}),
) -> bytes:
    """Writes a merged adapter's file, to the same bytes for the same values.

    Args:
        sites: The merged sites, in any order, each of rank k at most `rank`.
        rank: The adapter's rank.
        dtype: Element type to store, `F32`, `F16` or `BF16`.
        base_model: Name of the base model; goes into the header, unless a field taken over has it.
        ends: What follows a site's name in the keys of A and B.
        carried: Fields of the sources' headers that all agree on.
        compact: Store each site at its own rank instead of filling up with zeros.
        beside: Further tensors, such as differences of biases, as they are stored.

    Raises:
        ShapeMismatch: If there are no sites or two of one name, or a pair does not fit together.
        InvalidOption: If `dtype` is unknown or cannot hold a value.
        NonFiniteWeights: If a factor holds NaN or infinity.
    """
    tensors: dict[str, Tensor] = {}
    for site in in_order(sites, dtype, base_model):
        keys = (f"{site.site}{ends[0]}", f"{site.site}{ends[1]}")
        tensors.update(
            zip(keys, stored_pair(site, rank, dtype, compact=compact, keys=keys), strict=True)
        )
    metadata = {name: str(value) for name, value in carried.items() if value}
    if base_model not in {value.removesuffix("/lora") for value in metadata.values()}:
        metadata = {name: text for name, text in metadata.items() if name not in FIELDS}
        metadata.update({FIELDS[0]: base_model} if base_model else {})
    return serialize({**tensors, **beside}, {**metadata, "format": "pt"})
