"""XLabs' layout: one file, `double_blocks.0.processor.qkv_lora1.down.weight`, of Flux.

A double block has a LoRA for the image's stream (`lora1`) and one for the text's (`lora2`). Names are
kept as the file has them; alpha is the rank.
"""

from __future__ import annotations

from lego_ray.formats.base_model import base_model_in
from lego_ray.formats.lone import FullWeights, read_lone
from lego_ray.formats.record import AdapterHeaders, AdapterRecord
from lego_ray.formats.suffixes import XLABS, Factor


def read_adapter(headers: AdapterHeaders, full_weights: FullWeights = "refuse") -> AdapterRecord:
    """Describes an XLabs LoRA from its headers, having checked all that headers can show.

    Args:
        headers: The adapter's.
        full_weights: As in `lone.read_lone`.

    Raises:
        UnsupportedAdapter: If it holds anything else.
        RankMismatch: If the ranks of a site's factors differ.
        MalformedAdapter: If the file is damaged, incomplete, or contradicts itself.
    """
    found = read_lone(headers, _site_of, full_weights)
    return headers.record(
        format="xlabs",
        base_model=base_model_in(headers.metadata) or headers.base_model,
        sites=found.sites,
        differences=found.differences,
        config={},
        notes=found.notes,
    )


def _site_of(factor: Factor) -> str:
    return factor.stem if factor.suffix is XLABS else ""
