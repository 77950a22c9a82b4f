"""Factor pairs of an adapter that is one file, by the tables of prefixes and suffixes.

The layouts of such files differ in what their modules are called when they are written, not in how they
are read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from lego_ray.errors import MalformedAdapter, RankMismatch
from lego_ray.formats.architectures.twice import check_not_named_twice
from lego_ray.formats.factors import (
    RESAVE,
    FactorKey,
    Pair,
    pair,
    refuse_unknown,
    site_factors,
    some,
)
from lego_ray.formats.layouts import check_layout
from lego_ray.formats.module_names import check_named_once
from lego_ray.formats.peft_config import PeftConfig, config_from
from lego_ray.formats.record import AdapterHeaders, SiteFactors, TensorSpan
from lego_ray.formats.refusals import check_config, check_tensors
from lego_ray.formats.strict_json import parse_object
from lego_ray.formats.suffixes import A_B, ALPHA, Factor, parse_suffix
from lego_ray.formats.wrappers import by_plain_key

METADATA = "lora_adapter_metadata"

FullWeights = Literal["refuse", "drop", "keep"]
# Differences of whole weights, biases and norms that stand beside the factors.
_WHOLE = re.compile(r".+\.(?:diff|diff_b|diff_m|w_norm|b_norm|lora_B(?:\.[^.]+)?\.bias)")


@dataclass(frozen=True, slots=True)
class LoneFile:
    """What a file holds.

    Attributes:
        sites: Its factor pairs, sorted by site.
        configs: PEFT's configuration of each component that the header has one of; by an empty name
            where it is of the whole file.
        notes: What was left out, in words.
        adapter: The adapter's name in the keys, in dumps that have one; else empty.
    """

    sites: tuple[SiteFactors, ...]
    configs: Mapping[str, PeftConfig]
    notes: tuple[str, ...]
    adapter: str


def read_lone(
    headers: AdapterHeaders,
    site_of: Callable[[Factor], str],
    full_weights: FullWeights = "refuse",
    *,
    has_config: bool = False,
) -> LoneFile:
    """Reads the factors of a lone file, having checked all that headers can show.

    Alpha is a tensor beside the factors, whatever their suffix, or in the header's
    `lora_adapter_metadata`. Without either, alpha is the rank, as all readers of such files take it.

    Args:
        headers: The adapter's.
        site_of: The site that a factor is of; empty for one that is not understood.
        full_weights: What to do with differences of whole weights and biases: `drop` leaves them out
            with a note; anything else refuses the adapter.
        has_config: Whether the header's `lora_adapter_metadata` counts.

    Raises:
        UnsupportedAdapter: If it is not a plain LoRA (LoHa, LoKr, DoRA, ...).
        RankMismatch: If the ranks of a site's factors differ, or are not the ones configured.
        MalformedAdapter: If the file is damaged, incomplete, or contradicts itself.
    """
    where = headers.weights
    spans = by_plain_key(headers.spans, where)
    check_layout(None, list(spans), where)
    whole = [name for name in spans if full_weights == "drop" and _WHOLE.fullmatch(name)]
    names = [name for name in spans if name not in set(whole)]
    check_tensors(names, where)
    configs = configs_of(headers.metadata, where) if has_config else {}
    factors: list[tuple[FactorKey, TensorSpan]] = []
    called: dict[str, str] = {}  # sites by what stands before the suffix
    unknown: list[str] = []
    for name in names:
        factor = parse_suffix(name)
        if factor and (site := site_of(factor)):
            factors.append((FactorKey(site, factor.half, adapter=factor.adapter), spans[name]))
            called[factor.stem] = site
        elif factor or not name.endswith(ALPHA):
            unknown.append(spans[name].name)
    alphas: dict[str, TensorSpan] = {}
    for name in (name for name in names if name.endswith(ALPHA)):
        stem = name.removesuffix(ALPHA)
        site = called.get(stem) or site_of(Factor(stem, "A", A_B))
        if site in alphas:
            problem = f"it gives alpha of {site} twice, {alphas[site].name} and {name}"
            raise MalformedAdapter(where, problem, RESAVE)
        if site:
            alphas[site] = spans[name]
        else:
            unknown.append(spans[name].name)
    refuse_unknown(unknown, where)
    if alphas and configs:
        problem = f"it gives alpha twice, in {METADATA} and in {next(iter(alphas.values())).name}"
        raise MalformedAdapter(where, problem, RESAVE)
    pairs = pair(factors, where)
    for config in configs.values():
        config.check_affordable([found.site for found in pairs], f"{where} ({METADATA})")
    sites = tuple(_site(found, configs, alphas.pop(found.site, None), where) for found in pairs)
    if alphas:
        problem = f"{next(iter(alphas.values())).name} is of no site in the file"
        raise MalformedAdapter(where, problem, "The file is incomplete: download or save it again.")
    check_named_once((site.site for site in sites), where)
    check_not_named_twice((site.site for site in sites), where)
    note = f"full weights and biases were dropped: {some(whole)}"
    return LoneFile(sites, configs, (note,) if whole else (), factors[0][0].adapter)


def configs_of(metadata: Mapping[str, str], where: str) -> dict[str, PeftConfig]:
    """The configuration of each component that has one, or of the whole file by an empty name.

    Args:
        metadata: Of the file's header.
        where: The file, for the error.

    Raises:
        MalformedAdapter: If they cannot be read.
        UnsupportedAdapter: If one promises no plain LoRA.
    """
    text = metadata.get(METADATA)
    if not text:
        return {}
    place = f"{where} ({METADATA})"
    found = parse_object(text.encode(), place)
    if "peft_type" in found:  # of one model, saved by itself (diffusers: save_lora_adapter)
        check_config(found, place)
        return {"": config_from(found, place)}
    fields: dict[str, dict[str, object]] = {}
    for key, value in found.items():
        component, dot, field = key.partition(".")
        if not dot:
            problem = f"{METADATA} has {key}, which names no component"
            hint = "Save it with the pipeline's save_lora_weights, which names them."
            raise MalformedAdapter(where, problem, hint)
        fields.setdefault(component, {"peft_type": "LORA"})[field] = value
    for config in fields.values():
        check_config(config, place)
    return {component: config_from(config, place) for component, config in fields.items()}


def _site(
    found: Pair, configs: Mapping[str, PeftConfig], alpha: TensorSpan | None, where: str
) -> SiteFactors:
    component, _, module = found.site.partition(".")
    config = configs.get(component)
    if config is None and "" in configs:
        config, module = configs[""], found.site
    if config is None:
        return site_factors(found, scaling=None, where=where, alpha=alpha, flat_b=True)
    site = site_factors(found, scaling=config.scaling_of(module), where=where, flat_b=True)
    if site.rank != config.rank_of(module):
        problem = (
            f"{METADATA} gives {found.site} rank {config.rank_of(module)}, its tensor has rank "
            f"{site.rank}"
        )
        raise RankMismatch(where, problem, RESAVE)
    return site
