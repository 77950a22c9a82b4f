"""LoHa and LoKr as PEFT saves them: a configuration of `peft_type` `LOHA` or `LOKR`, and their tensors.

The configuration has the rank of a module under LoRA's names, and its alpha under others. The
scaling is alpha / r for every module, also where no tensor has that rank (`lokr_w1` and `lokr_w2`
whole).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lego_ray.errors import MalformedAdapter, RankMismatch, UnsupportedAdapter
from lego_ray.formats.factors import RESAVE
from lego_ray.formats.kinds import NAMES, Parts, expanded_site, is_flat_convolution
from lego_ray.formats.peft_config import PeftConfig
from lego_ray.formats.site_factors import SiteFactors

TYPES = ("LOHA", "LOKR")
# Fields of their configurations that a LoRA's does not have. None changes what the tensors mean.
_FIELDS = frozenset(
    {
        *("alpha", "rank_dropout", "module_dropout", "rank_dropout_scale", "init_weights"),
        *("use_effective_conv2d", "decompose_both", "decompose_factor"),
    }
)


def as_lora(fields: Mapping[str, object]) -> dict[str, object]:
    """The configuration of a LoHa or LoKr with what a LoRA has of it.

    Args:
        fields: The configuration, parsed.
    """
    left = {name: value for name, value in fields.items() if name not in _FIELDS}
    alpha = {"lora_alpha": fields["alpha"]} if "alpha" in fields else {}
    return {**left, **alpha, "peft_type": "LORA"}


def lycoris_sites(
    parts: Parts, settings: PeftConfig, where: str, config: str
) -> tuple[SiteFactors, ...]:
    """The sites of a LoHa or LoKr of PEFT, sorted.

    Args:
        parts: Its tensors.
        settings: Its configuration, as a LoRA's.
        where: The weights file, for the error.
        config: The configuration file, for the error.

    Raises:
        MalformedAdapter: If there are none, or tensors are missing or do not fit together.
        RankMismatch: If a rank is not the one configured.
        UnsupportedAdapter: If a site is a convolution whose shape is not in the file, or beyond bounds.
    """
    if not parts.forms:
        raise MalformedAdapter(where, "it holds no tensors of a LoHa or LoKr", RESAVE)
    stray = next((s.name for n, s in parts.scalars.items() if n not in parts.forms), None)
    if stray is not None:
        raise MalformedAdapter(where, f"{stray} is of no site in the file", RESAVE)
    settings.check_affordable(list(parts.forms), config)
    sites = []
    for name, form in sorted(parts.forms.items()):
        if form == "cp":
            problem = f"{name} has a lora_mid, which PEFT does not write"
            raise UnsupportedAdapter(where, problem, RESAVE)
        site = expanded_site(name, form, parts.spans[name], where, of_peft=True)
        if site.divisor not in (0, settings.rank_of(name)):
            problem = (
                f"{name} is a {NAMES[form]} configured with rank {settings.rank_of(name)}, its tensors "
                f"have rank {site.divisor}"
            )
            raise RankMismatch(config, problem, RESAVE)
        # PEFT makes both parts with the one rank that is configured.
        if form == "loha" and (other := parts.spans[name]["w2_b"]).shape[0] != site.divisor:
            problem = (
                f"{name} is a LoHa configured with rank {site.divisor}, and {other.name} has rank "
                f"{other.shape[0]}"
            )
            raise RankMismatch(config, problem, RESAVE)
        if is_flat_convolution(site):
            problem = (
                f"{name} is a {NAMES[form]} of a convolution, by its name, and its tensors do not say "
                "what the kernel's sizes are"
            )
            hint = "Train it again with use_effective_conv2d, or leave it out with --exclude."
            raise UnsupportedAdapter(where, problem, hint)
        scalar = parts.scalars.get(name)
        sites.append(replace(site, scaling=settings.scaling_of(name), scalar=scalar))
    return tuple(sites)
