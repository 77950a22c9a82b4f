"""One module's name in the spellings of image trainers: component, prefix and path.

The same module is `lora_unet_blocks_0_attn_q` to one trainer and `diffusion_model.blocks.0.attn.q` to
another, and readers know both. A file that has both, or a merge that writes both, loses one of them in
silence: the later replaces the earlier.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

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
    ("lora_te4_", "text 4"),
    ("lora_te_", "text 1"),
    ("model.diffusion_model.", DENOISER),
    ("diffusion_model.", DENOISER),
    ("pipe.dit.", DENOISER),
    ("conditional_transformer.", DENOISER),
    ("net.", DENOISER),
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
    ("text_encoder_4.", "text 4"),
)
# What ComfyUI calls text encoders, each by the name of its model.
_COMFYUI = re.compile(r"text_encoders\.(\w+)\.transformer\.")
# CLIP-H of Stable Diffusion 2, which has no other encoder.
_FIRST = ("clip_h",)
_NUMBER = re.compile(r"(?:lora_te|text_encoder_?)(\d?)[._]")
# Of the prefixes of one component, the one that most readers know comes first. Others come after these:
# OneTrainer's `lora_transformer_`, say, which diffusers reads of Flux.1 alone, and in part.
STANDARD = (
    *("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_", "lora_te3_"),
    *("diffusion_model.", "transformer.", "unet.", "text_encoder.", "text_encoder_2."),
)
# A path without any of the prefixes is the denoiser's, unless it begins so.
_OTHER = re.compile(
    r"(lora|lycoris|oft|text_encoders?|bundle_emb|conditioner|cond_stage_model)\b|lora_"
)
# T5, the only text encoder of one pipeline, the second of another and the third of a third.
_T5 = re.compile(r"(encoder[._])?block[._]\d+[._]layer[._]\d+[._]")
# A language model, whose layers are below one or two more names in some releases of transformers.
_LLM = re.compile(
    r"(?P<lead>(?:(?:language_)?model[._]){0,3})layers[._]\d+[._](?:self_attn|mlp)[._]"
)
# HiDream-O1, a vision-language model that draws: ai-toolkit leaves out the first name, musubi-tuner
# does not.
_DRAWS = re.compile(
    r"(?P<lead>(?:model[._])?)(?:language_model|visual|[xt]_embedder1?|final_layer2)[._]"
)
# Text encoders of which a pipeline has one at most, whatever their number.
T5, LLM = "t5", "llm"


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
        path = self.path[len(self.lead) :]
        path = repaired(flattened(path))
        if self.component.startswith("text"):
            path = path.removeprefix("text_model_")
        return self.component, path

    @property
    def is_text(self) -> bool:
        """Whether it is of a text encoder."""
        return self.component.startswith(("text", T5, LLM))

    @property
    def lead(self) -> str:
        """What stands before the layers, where that depends on the trainer; empty for other models."""
        found = self._layers
        return found["lead"] if found else ""

    @property
    def has_lead(self) -> bool:
        """Whether it is a module of a model before whose layers trainers write different names."""
        return self._layers is not None

    @property
    def _layers(self) -> re.Match[str] | None:
        pattern = _LLM if self.is_text else _DRAWS if self.component == DENOISER else None
        return pattern.match(self.path) if pattern else None

    @property
    def number(self) -> int:
        """Which text encoder of the pipeline the prefix says it is; 0 if it gives no number."""
        found = _NUMBER.fullmatch(self.prefix)
        return int(found[1] or 1) if found else 0

    @property
    def label(self) -> str:
        """What ComfyUI calls the text encoder; empty for names of others."""
        found = _COMFYUI.fullmatch(self.prefix)
        return found[1] if found else ""


def flattened(path: str) -> str:
    """A path with dots as underscores, none of which is doubled."""
    return re.sub(r"_+", "_", path.replace(".", "_")).strip("_")


def repaired(path: str) -> str:
    """A flattened path, `transformer_blocks` for what some files of Flux.2 have instead.

    diffusers reads the two alike.

    Args:
        path: With underscores for dots.
    """
    return f"tran{path}" if path.startswith("sformer_blocks_") else path


def parse_name(site: str) -> ModuleName:
    """Takes a site's name apart, of kohya's layout or diffusers'."""
    for prefix, component in PREFIXES:
        if site.startswith(prefix) and len(site) > len(prefix):
            path = site[len(prefix) :]
            if component.startswith("text"):
                component = _encoder(path) or component
            return ModuleName(site, component, prefix, path)
    if found := _COMFYUI.match(site):
        path = site[found.end() :]
        if component := _encoder(path) or ("text 1" if found[1] in _FIRST else ""):
            return ModuleName(site, component, found[0], path)
    component = "" if _OTHER.match(site) else DENOISER
    return ModuleName(site, component, "", site)


# Ways to begin names of the denoiser, of which diffusers reads one in a file.
_WAYS: Mapping[str, str] = {
    **dict.fromkeys(("diffusion_model.", "model.diffusion_model.", "pipe.dit."), "authors"),
    **dict.fromkeys(("conditional_transformer.", "net."), "authors"),
    **dict.fromkeys(("transformer.", "unet."), "diffusers"),
    **dict.fromkeys(("lora_unet_", "lora_unet__", "lora_transformer_"), "kohya"),
}


def two_ways(sites: Iterable[str]) -> tuple[str, str] | None:
    """Two modules of the denoiser whose names begin in ways of which diffusers reads one; or None.

    Args:
        sites: The modules of a file.
    """
    found: dict[str, str] = {}
    for site in sorted(sites):
        name = parse_name(site)
        if name.component == DENOISER and name.prefix in _WAYS:
            found.setdefault(_WAYS[name.prefix], site)
    first, second = (*found.values(), "", "")[:2]
    return (first, second) if second else None


def _encoder(path: str) -> str:
    """The text encoder that only its path shows; empty for CLIP and others, which have numbers."""
    return T5 if _T5.match(path) else LLM if _LLM.match(path) else ""
