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
from lego_ray.formats.factors import FactorKey, pair, refuse_unknown, site_factors
from lego_ray.formats.layouts import check_layout
from lego_ray.formats.module_names import check_named_once
from lego_ray.formats.record import AdapterHeaders, AdapterRecord, TensorSpan
from lego_ray.formats.refusals import check_tensors
from lego_ray.formats.wrappers import by_plain_key

ALPHA = ".alpha"

_FACTOR = re.compile(r"(?P<site>.+)\.lora_(?P<half>down|up)\.weight")
_HALVES = {"down": "A", "up": "B"}

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


def read_adapter(headers: AdapterHeaders) -> AdapterRecord:
    """Describes a kohya LoRA from its headers, having checked all that headers can show.

    Alpha is a tensor among the factors, so its value comes with them; a site without one has alpha
    equal to its rank. The record's `config` holds `CARRIED_FIELDS` and `spelling`.

    Args:
        headers: The adapter's.

    Raises:
        UnsupportedAdapter: If it is not a plain LoRA (LoHa, LoKr, DoRA, ...).
        RankMismatch: If the ranks of a site's factors differ.
        MalformedAdapter: If the file is damaged, incomplete, or contradicts itself.
    """
    where = headers.weights
    spans = by_plain_key(headers.spans, where)
    names = list(spans)
    check_layout(None, names, where)
    check_tensors(names, where)
    factors: list[tuple[FactorKey, TensorSpan]] = []
    alphas: dict[str, TensorSpan] = {}
    unknown: list[str] = []
    for name, span in spans.items():
        if found := _FACTOR.fullmatch(name):
            factors.append((FactorKey(found["site"], _HALVES[found["half"]]), span))
        elif name.endswith(ALPHA):
            alphas[name.removesuffix(ALPHA)] = span
        else:
            unknown.append(span.name)
    refuse_unknown(unknown, where)
    sites = tuple(
        site_factors(found, scaling=None, where=where, alpha=alphas.pop(found.site, None))
        for found in pair(factors, where)
    )
    if alphas:
        problem = f"{next(iter(alphas.values())).name} is of no site in the file"
        raise MalformedAdapter(where, problem, "The file is incomplete: download or save it again.")
    config: dict[str, object] = {
        name: headers.metadata[name] for name in CARRIED_FIELDS if headers.metadata.get(name)
    }
    check_named_once((s.site for s in sites), where)
    config["spelling"] = _spelling((s.site for s in sites), where)
    return headers.record(
        format="kohya",
        base_model=base_model_in(headers.metadata) or headers.base_model,
        sites=sites,
        config=config,
    )


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
