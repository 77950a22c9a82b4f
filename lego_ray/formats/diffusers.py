"""diffusers' layout: one file, `<component>.<path>.lora_A.weight` and older spellings of it.

Alpha is in the header's `lora_adapter_metadata`, where there is one: PEFT's configuration of each
component, its fields prefixed by the component's name. Some trainers write `<path>.alpha` tensors
instead. Without either, alpha is the rank.
"""

from __future__ import annotations

from lego_ray.formats.base_model import base_model_in
from lego_ray.formats.diffusers_keys import site_of
from lego_ray.formats.lone import FullWeights, read_lone
from lego_ray.formats.record import AdapterHeaders, AdapterRecord


def read_adapter(
    headers: AdapterHeaders, full_weights: FullWeights = "refuse", *, with_base: bool = False
) -> AdapterRecord:
    """Describes a diffusers LoRA from its headers, having checked all that headers can show.

    Args:
        headers: The adapter's.
        full_weights: As in `lone.read_lone`.
        with_base: As in `lone.read_lone`.

    Raises:
        UnsupportedAdapter: If it is not a plain LoRA, or names no component of a pipeline.
        RankMismatch: If a site's rank is not the one configured.
        MalformedAdapter: If the file is damaged, incomplete, or contradicts itself.
    """
    found = read_lone(headers, site_of, full_weights, has_config=True, with_base=with_base)
    named = next((name for c in found.configs.values() if (name := c.settings.base_model)), "")
    return headers.record(
        format="diffusers",
        base_model=headers.base_model or named or base_model_in(headers.metadata),
        sites=found.sites,
        differences=found.differences,
        config={},
        notes=found.notes,
    )
