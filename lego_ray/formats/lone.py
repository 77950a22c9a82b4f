"""Factor pairs of an adapter that is one file, by the tables of prefixes and suffixes.

The layouts of such files differ in what their modules are called when they are written, not in how they
are read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lego_ray.errors import MalformedAdapter, RankMismatch, UnsupportedAdapter
from lego_ray.formats.architectures.twice import check_named_once, check_not_named_twice
from lego_ray.formats.base_model import base_model_in
from lego_ray.formats.differences import Difference, split_end
from lego_ray.formats.dora import note_of_outputs, rescaled_sites, split_magnitude
from lego_ray.formats.factors import (
    GATHER,
    RESAVE,
    FactorKey,
    Pair,
    check_dtype,
    pair,
    refuse_unknown,
    site_factors,
    some,
)
from lego_ray.formats.header_alpha import with_header_alpha
from lego_ray.formats.kinds import (
    NAMES,
    SCALARS,
    Parts,
    expanded_site,
    folded_pair,
    has_alpha,
    note_of,
    note_of_flat,
    parse_kind,
)
from lego_ray.formats.layouts import check_layout
from lego_ray.formats.lone_config import LoneConfig, configs_of
from lego_ray.formats.module_names import flattened
from lego_ray.formats.peft_base import note_of as note_of_base
from lego_ray.formats.record import AdapterHeaders
from lego_ray.formats.refusals import BUNDLED, WHOLE_NORMS, check_tensors
from lego_ray.formats.site_factors import SiteFactors, TensorSpan
from lego_ray.formats.suffixes import A_B, ALPHA, DOWN_UP, Factor, parse_suffix
from lego_ray.formats.wrappers import by_plain_key

FullWeights = Literal["refuse", "drop", "keep", "sum", "average"]
# What stands beside the factors and may be left out: differences of whole weights, biases and norms; and
# weights and embeddings that take the place of others.
_WHOLE = re.compile(
    r".+\.(?:diff|diff_b|diff_m|w_norm|b_norm|lora_B(?:\.[^.]+)?\.bias|set_weight)"
    rf"|{WHOLE_NORMS}|{BUNDLED}.+"
)


@dataclass(frozen=True, slots=True)
class LoneFile:
    """What a file holds.

    Attributes:
        sites: Its factor pairs, sorted by site.
        configs: PEFT's configuration of each component that has one; by an empty name where it is of the
            whole file.
        notes: What was left out, in words.
        adapter: The adapter's name in the keys, in dumps that have one; else empty.
        differences: Differences of weights, biases and norms, sorted by common key, if they are kept,
            summed or averaged.
    """

    sites: tuple[SiteFactors, ...]
    configs: Mapping[str, LoneConfig]
    notes: tuple[str, ...]
    adapter: str
    differences: tuple[Difference, ...] = ()


def read_lone(
    headers: AdapterHeaders,
    site_of: Callable[[Factor], str],
    full_weights: FullWeights = "refuse",
    *,
    has_config: bool = False,
    with_base: bool = False,
) -> LoneFile:
    """Reads the factors of a lone file, having checked all that headers can show.

    Alpha is a tensor beside the factors, whatever their suffix, or in a configuration of PEFT: the
    header's `lora_adapter_metadata`, or an `adapter_config.json` beside the file. Where there are both
    they must agree. Without either, alpha is the rank, as all readers of such files take it.

    Args:
        headers: The adapter's.
        site_of: The site that a factor is of; empty for one that is not understood.
        full_weights: What to do with differences of whole weights, biases and norms: `drop` leaves them
            out with a note, `refuse` refuses the adapter, and anything else takes them.
        has_config: Whether configurations of PEFT count.
        with_base: Whether to take DoRA too, whose update is computed with the base model; where its
            weights lie is then still to be put into the sites.

    Raises:
        UnsupportedAdapter: If it is not a plain LoRA (OFT, ...), or it has differences that are to
            be taken and no factors, or both for one weight.
        RankMismatch: If the ranks of a site's factors differ, or are not the ones configured.
        MalformedAdapter: If the file is damaged, incomplete, or contradicts itself.
    """
    where = headers.weights
    spans = by_plain_key(headers.spans, where)
    check_layout(None, list(spans), where)
    whole = [name for name in spans if full_weights == "drop" and _WHOLE.fullmatch(name)]
    takes = full_weights not in ("refuse", "drop")
    ends = {name: end for name in spans if takes and (end := split_end(name))}
    scaled = {name: stem for name in spans if with_base and (stem := split_magnitude(name))}
    left_out = {*whole, *ends, *scaled}
    names = [name for name in spans if name not in left_out]
    check_tensors([name for name in names if parse_kind(name) is None], where)
    without = {"use_dora"} if scaled else set[str]()
    configs = configs_of(headers, without) if has_config else {}
    factors: list[tuple[FactorKey, TensorSpan]] = []
    called: dict[str, str] = {}  # sites by what stands before the suffix
    unknown: list[str] = []
    parts = Parts()
    for name in names:
        factor = parse_suffix(name)
        kind = parse_kind(name)
        if kind:
            if site := site_of(Factor(kind.stem, "A", DOWN_UP)):
                parts.add(site, kind, spans[name], where)
                called[kind.stem] = site
            else:
                unknown.append(spans[name].name)
        elif factor and (site := site_of(factor)):
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
    magnitudes: dict[str, TensorSpan] = {}
    # diffusers' convert_state_dict_to_kohya leaves the last dot of these paths as it is.
    flat = {flattened(stem): site for stem, site in called.items()} if scaled else {}
    for name, stem in scaled.items():
        site = called.get(stem) or flat.get(flattened(stem)) or site_of(Factor(stem, "A", A_B))
        if not site:
            unknown.append(spans[name].name)
        elif magnitudes.setdefault(site, spans[name]) is not spans[name]:
            problem = f"{site} has two magnitudes, {magnitudes[site].name} and {name}"
            raise MalformedAdapter(where, problem, RESAVE)
    refuse_unknown(unknown, where)
    if ends and not factors and not parts.forms:
        raise without_factors(list(ends), where)
    pairs = pair(factors, where) if factors or not parts.forms else []
    for config in configs.values():
        names_of = [*(found.site for found in pairs), *parts.forms]
        config.settings.check_affordable(names_of, config.place)
    sites = _with_kinds(pairs, parts, configs, alphas, where)
    if alphas:
        problem = f"{next(iter(alphas.values())).name} is of no site in the file"
        raise MalformedAdapter(where, problem, "The file is incomplete: download or save it again.")
    said: tuple[str, ...] = ()
    if not configs and not any(name.endswith(ALPHA) for name in names):
        base_model = base_model_in(headers.metadata) or headers.base_model
        sites, said = with_header_alpha(sites, headers.metadata, base_model)
    sites = rescaled_sites(sites, magnitudes, where)
    check_named_once((site.site for site in sites), where)
    check_not_named_twice((site.site for site in sites), where)
    differences = _differences(ends, spans, called, site_of, where)
    note = f"full weights and biases were dropped: {some(whole)}"
    notes = ((note,) if whole else ()) + note_of(sites) + note_of_flat(sites)
    notes += note_of_base(sites) + note_of_outputs(sites) + said
    notes += (SCALARS,) if parts.scalars else ()
    adapter = factors[0][0].adapter if factors else ""
    return LoneFile(sites, configs, notes, adapter, differences)


def without_factors(names: Sequence[str], where: str) -> UnsupportedAdapter:
    """The refusal of a file that has differences and nothing of low rank.

    Args:
        names: Keys of the differences.
        where: The file.
    """
    problem = (
        "it holds differences of whole weights, biases or norms and no factors of a LoRA: "
        f"{some(names)}, so there is nothing of low rank to merge"
    )
    hint = (
        "Merge it into its base model and extract a plain LoRA from the difference, or leave it out "
        "with --exclude."
    )
    return UnsupportedAdapter(where, problem, hint)


def _differences(
    ends: Mapping[str, tuple[str, str]],
    spans: Mapping[str, TensorSpan],
    called: Mapping[str, str],
    site_of: Callable[[Factor], str],
    where: str,
) -> tuple[Difference, ...]:
    """The differences of a file, sorted.

    Args:
        ends: Path and end of each one's key, by key.
        spans: The file's tensors, by key.
        called: Sites by what stands before the suffix.
        site_of: As for `read_lone`.
        where: The file, for the error.
    """
    found: dict[str, Difference] = {}
    adapted = set(called.values())
    unknown: list[str] = []
    for name, (stem, end) in ends.items():
        module = called.get(stem) or site_of(Factor(stem, "A", DOWN_UP))
        if not module:
            unknown.append(spans[name].name)
            continue
        each = Difference(module, end, spans[name])
        check_dtype(each.span, where)
        if 0 in each.span.shape:
            problem = (
                f"{each.span.name} has shape {list(each.span.shape)}, so its values are missing"
            )
            raise MalformedAdapter(where, problem, GATHER)
        if each.key in found:
            problem = f"{found[each.key].span.name} and {each.span.name} are the same difference"
            raise MalformedAdapter(where, problem, RESAVE)
        if each.part == "weight" and module in adapted:
            problem = (
                f"{module} has factors and a difference of its whole weight ({each.span.name}), and "
                "readers use only one of the two"
            )
            hint = "--full-weights drop leaves the difference out. Else leave out the adapter."
            raise UnsupportedAdapter(where, problem, hint)
        found[each.key] = each
    refuse_unknown(unknown, where)
    return tuple(found[key] for key in sorted(found))


def _with_kinds(
    pairs: Sequence[Pair],
    parts: Parts,
    configs: Mapping[str, LoneConfig],
    alphas: dict[str, TensorSpan],
    where: str,
) -> tuple[SiteFactors, ...]:
    """The sites of a file, sorted: of plain pairs, and of the other kinds; alphas are taken out."""
    sites: dict[str, SiteFactors] = {}
    for found in pairs:
        form = parts.forms.get(found.site)
        if form == "cp":
            sites[found.site] = folded_pair(found, parts.spans[found.site], where)
        elif form:
            other = next(iter(parts.spans[found.site].values())).name
            problem = f"{found.site} is of two kinds, by {found.a.name} and {other}"
            raise MalformedAdapter(where, problem, RESAVE)
        else:
            sites[found.site] = site_factors(found, scaling=None, where=where, flat_b=True)
    for site, form in parts.forms.items():
        if site not in sites:
            config, _ = _config_of(site, configs)
            of_peft = config is not None and config.is_lycoris
            sites[site] = expanded_site(site, form, parts.spans[site], where, of_peft=of_peft)
    stray = next((span for site, span in parts.scalars.items() if site not in sites), None)
    if stray is not None:
        problem = f"{stray.name} is of no site in the file"
        raise MalformedAdapter(where, problem, "The file is incomplete: download or save it again.")
    return tuple(
        _scaled(sites[name], configs, alphas.pop(name, None), parts.scalars.get(name), where)
        for name in sorted(sites)
    )


def _config_of(site: str, configs: Mapping[str, LoneConfig]) -> tuple[LoneConfig | None, str]:
    """The configuration that a site is of, if any, and what the site is called there."""
    component, _, module = site.partition(".")
    if component in configs:
        return configs[component], module
    return configs.get(""), site


def _scaled(
    site: SiteFactors,
    configs: Mapping[str, LoneConfig],
    alpha: TensorSpan | None,
    scalar: TensorSpan | None,
    where: str,
) -> SiteFactors:
    config, module = _config_of(site.site, configs)
    # PEFT divides by the rank of the configuration also where a LoKr has no factors.
    if not has_alpha(site) and (config is None or not config.is_lycoris):
        return replace(site, scalar=scalar)
    if config is None:
        return replace(site, alpha=alpha, scalar=scalar)
    rank = config.settings.rank_of(module)
    if site.divisor != rank and has_alpha(site):
        form = site.expansion and site.expansion.form
        what = f"{site.site}, a {NAMES[form]}," if form else site.site
        problem = f"{config.name} gives {what} rank {rank}, its tensor has rank {site.divisor}"
        raise RankMismatch(where, problem, RESAVE)
    scaling = config.settings.scaling_of(module)
    if alpha is not None and has_alpha(site):
        return replace(site, alpha=alpha, stated=scaling, scalar=scalar)
    return replace(site, scaling=scaling, scalar=scalar)
