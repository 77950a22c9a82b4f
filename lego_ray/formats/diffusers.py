"""diffusers' layout: one file, `<component>.<path>.lora_A.weight` and older spellings of it.

Alpha is in the header's `lora_adapter_metadata`, where there is one: PEFT's configuration of each
component, its fields prefixed by the component's name. Some trainers write `<path>.alpha` tensors
instead. Without either, alpha is the rank.
"""

from __future__ import annotations

from collections.abc import Mapping

from lego_ray.errors import MalformedAdapter, RankMismatch
from lego_ray.formats.base_model import base_model_in
from lego_ray.formats.diffusers_keys import component_of, module_of, parse_factor, site_of
from lego_ray.formats.factors import (
    RESAVE,
    FactorKey,
    Pair,
    pair,
    refuse_unknown,
    site_factors,
)
from lego_ray.formats.layouts import check_layout
from lego_ray.formats.module_names import check_named_once
from lego_ray.formats.peft_config import PeftConfig, config_from
from lego_ray.formats.record import AdapterHeaders, AdapterRecord, SiteFactors, TensorSpan
from lego_ray.formats.refusals import check_config, check_tensors
from lego_ray.formats.strict_json import parse_object
from lego_ray.formats.wrappers import by_plain_key

METADATA = "lora_adapter_metadata"
ALPHA = ".alpha"


def read_adapter(headers: AdapterHeaders) -> AdapterRecord:
    """Describes a diffusers LoRA from its headers, having checked all that headers can show.

    Args:
        headers: The adapter's.

    Raises:
        UnsupportedAdapter: If it is not a plain LoRA, or names no component of a pipeline.
        RankMismatch: If a site's rank is not the one configured.
        MalformedAdapter: If the file is damaged, incomplete, or contradicts itself.
    """
    where = headers.weights
    spans = by_plain_key(headers.spans, where)
    names = list(spans)
    check_layout(None, names, where)
    check_tensors(names, where)
    configs = configs_of(headers.metadata, where)
    factors: list[tuple[FactorKey, TensorSpan]] = []
    alphas: dict[str, TensorSpan] = {}
    unknown: list[str] = []
    for name, span in spans.items():
        if key := parse_factor(name):
            factors.append((key, span))
        elif name.endswith(ALPHA) and (site := site_of(name.removesuffix(ALPHA))):
            alphas[site] = span
        else:
            unknown.append(span.name)
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
        raise MalformedAdapter(where, problem, RESAVE)
    check_named_once((site.site for site in sites), where)
    named = next((config.base_model for config in configs.values() if config.base_model), "")
    return headers.record(
        format="diffusers",
        base_model=headers.base_model or named or base_model_in(headers.metadata),
        sites=sites,
        config={},
    )


def configs_of(metadata: Mapping[str, str], where: str) -> dict[str, PeftConfig]:
    """The configuration of each component that has one.

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
    fields: dict[str, dict[str, object]] = {}
    for key, value in parse_object(text.encode(), place).items():
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
    config = configs.get(component_of(found.site))
    if config is None:
        return site_factors(found, scaling=None, where=where, alpha=alpha)
    module = module_of(found.site)
    site = site_factors(found, scaling=config.scaling_of(module), where=where)
    if site.rank != config.rank_of(module):
        problem = (
            f"{METADATA} gives {found.site} rank {config.rank_of(module)}, its tensor has rank "
            f"{site.rank}"
        )
        raise RankMismatch(where, problem, RESAVE)
    return site
