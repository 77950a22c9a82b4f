"""kohya's layout: one file, `<flattened path>.lora_down.weight`, `.lora_up.weight` and `.alpha`.

Site names stay as they are in the file, dots flattened to underscores and all: which underscore was a
dot depends on the base model. Other trainers (LyCORIS, OneTrainer, musubi) write the same with other
prefixes, or with the dots left in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from lego_ray.errors import MalformedAdapter
from lego_ray.formats.base_model import FIELDS, base_model_in
from lego_ray.formats.diffusers_keys import plain_path
from lego_ray.formats.lone import FullWeights, read_lone
from lego_ray.formats.record import AdapterHeaders, AdapterRecord
from lego_ray.formats.suffixes import DOWN_UP, Factor

# What a merged file takes over where all its sources agree.
CARRIED_FIELDS = (
    *FIELDS,
    "ss_v2",
    "modelspec.sai_model_spec",
    "modelspec.implementation",
    "modelspec.prediction_type",
    "modelspec.resolution",
)

# SDXL's UNet has two sets of names: those of the model's authors, and diffusers'.
_SPELLINGS = {
    "sgm": re.compile(r"lora_unet_(input_blocks|middle_block|output_blocks)_"),
    "diffusers": re.compile(r"lora_unet_(down_blocks|mid_block|up_blocks)_"),
}


def read_adapter(
    headers: AdapterHeaders, full_weights: FullWeights = "refuse", *, with_base: bool = False
) -> AdapterRecord:
    """Describes a kohya LoRA from its headers, having checked all that headers can show.

    Alpha is a tensor among the factors, so its value comes with them; a site without one has alpha
    equal to its rank. The record's `config` holds `CARRIED_FIELDS` and `spelling`.

    Args:
        headers: The adapter's.
        full_weights: As in `lone.read_lone`.
        with_base: As in `lone.read_lone`.

    Raises:
        UnsupportedAdapter: If it is not a plain LoRA (LoHa, LoKr, DoRA, ...).
        RankMismatch: If the ranks of a site's factors differ.
        MalformedAdapter: If the file is damaged, incomplete, or contradicts itself.
    """
    found = read_lone(headers, _site_of, full_weights, with_base=with_base)
    config: dict[str, object] = {
        name: headers.metadata[name] for name in CARRIED_FIELDS if headers.metadata.get(name)
    }
    config["spelling"] = _spelling((s.site for s in found.sites), headers.weights)
    return headers.record(
        format="kohya",
        base_model=base_model_in(headers.metadata) or headers.base_model,
        sites=found.sites,
        differences=found.differences,
        config=config,
        notes=found.notes,
    )


def _site_of(factor: Factor) -> str:
    """Kohya's own names stay as they are; others may have older parts."""
    return factor.stem if factor.suffix is DOWN_UP else plain_path(factor)


def _spelling(sites: Iterable[str], where: str) -> str:
    """Which of its two sets of names the UNet's blocks have, or empty for neither.

    Raises:
        MalformedAdapter: If it is both; readers drop one half of such a file, or fail.
    """
    found: dict[str, str] = {}
    for site in sites:
        for name, pattern in _SPELLINGS.items():
            if pattern.match(site):
                found.setdefault(name, site)
    if len(found) > 1:
        problem = f"it names blocks of the UNet in two ways, {' and '.join(found.values())}"
        raise MalformedAdapter(where, problem, "Save the adapter again with one of them.")
    return next(iter(found), "")
