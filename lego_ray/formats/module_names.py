"""One module's name in the spellings of image trainers: component, prefix and path.

The same module is `lora_unet_blocks_0_attn_q` to one trainer and `diffusion_model.blocks.0.attn.q` to
another, and readers know both. A file that has both, or a merge that writes both, loses one of them in
silence: the later replaces the earlier.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from lego_ray.errors import MalformedAdapter

DENOISER = "denoiser"

# Prefix and the component that it says the path is in, the more telling first. A prefix that ends with
# an underscore goes before a path whose dots are underscores.
PREFIXES: tuple[tuple[str, str], ...] = (
    ("lora_prior_unet_", DENOISER),
    ("lora_prior_te_", "text 1"),
    ("lora_unet__", DENOISER),
    ("lora_unet_", DENOISER),
    ("lora_transformer_", DENOISER),
    ("lycoris_", DENOISER),
    ("lora_te1_", "text 1"),
    ("lora_te2_", "text 2"),
    ("lora_te3_", "text 3"),
    ("lora_te_", "text 1"),
    ("model.diffusion_model.", DENOISER),
    ("diffusion_model.", DENOISER),
    ("pipe.dit.", DENOISER),
    ("base_model.model.", DENOISER),
    ("transformer.", DENOISER),
    ("unet.", DENOISER),
    ("prior.", DENOISER),
    ("transformer_2.", "denoiser 2"),
    ("text_encoders.clip_l.transformer.", "text 1"),
    ("text_encoders.clip_g.transformer.", "text 2"),
    ("text_encoders.t5xxl.transformer.", "t5"),
    ("text_encoder.", "text 1"),
    ("text_encoder_2.", "text 2"),
    ("text_encoder_3.", "text 3"),
)
# Of the prefixes of one component, the one that most readers know comes first.
STANDARD = (
    *("lora_unet_", "lora_transformer_", "lora_te_", "lora_te1_", "lora_te2_", "lora_te3_"),
    *("diffusion_model.", "transformer.", "unet.", "text_encoder.", "text_encoder_2."),
)
# A path without any of the prefixes is the denoiser's, unless it begins so.
_OTHER = re.compile(
    r"(lora|lycoris|oft|text_encoders?|bundle_emb|conditioner|cond_stage_model)\b|lora_"
)
# T5, the second text encoder of one pipeline and the third of another.
_T5 = re.compile(r"(encoder[._])?block[._]\d+[._]layer[._]\d+[._]")


@dataclass(frozen=True, slots=True)
class ModuleName:
    """A site's name, taken apart.

    Attributes:
        site: The name as it is spelled.
        component: The part of the pipeline it is in.
        prefix: What it begins with; empty for a bare path.
        path: What follows.
    """

    site: str
    component: str
    prefix: str
    path: str

    @property
    def is_flat(self) -> bool:
        """Whether the dots of the path are underscores."""
        return self.prefix.endswith("_")

    @property
    def module(self) -> tuple[str, str]:
        """What all spellings of one module have in common: component and flattened path."""
        path = flattened(self.path)
        if self.component.startswith("text"):
            path = path.removeprefix("text_model_")
        return self.component, path


def flattened(path: str) -> str:
    """A path with dots as underscores, none of which is doubled."""
    return re.sub(r"_+", "_", path.replace(".", "_")).strip("_")


def parse_name(site: str) -> ModuleName:
    """Takes a site's name apart, of kohya's layout or diffusers'."""
    for prefix, component in PREFIXES:
        if site.startswith(prefix) and len(site) > len(prefix):
            path = site[len(prefix) :]
            if component in ("text 2", "text 3") and _T5.match(path):
                component = "t5"
            return ModuleName(site, component, prefix, path)
    component = "" if _OTHER.match(site) else DENOISER
    return ModuleName(site, component, "", site)


def check_named_once(sites: Iterable[str], where: str) -> None:
    """Passes an adapter that names no module in two spellings.

    Two dotted paths that are one when flattened (`a.b_c`, `a_b.c`) are two modules.

    Args:
        sites: Its sites.
        where: The weights file, for the error.

    Raises:
        MalformedAdapter: Otherwise, naming both; readers would use one of them.
    """
    seen: dict[tuple[str, str], ModuleName] = {}
    for site in sites:
        name = parse_name(site)
        other = seen.setdefault(name.module, name)
        if other is name or (other.prefix == name.prefix and not name.is_flat):
            continue
        problem = f"it names one module in two spellings, {other.site} and {name.site}"
        hint = "Readers use one of the two: save the adapter again with one spelling."
        raise MalformedAdapter(where, problem, hint)
