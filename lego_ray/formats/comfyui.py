"""ComfyUI's layout and its kin: one file of dotted names, `diffusion_model.<path>.lora_A.weight`.

It is the default of ai-toolkit, diffusion-pipe and most trainers of video models. Names are kept as the
file has them: `diffusion_model.`, `pipe.dit.`, `text_encoders.clip_l.transformer.`, PEFT's prefix, or no
prefix at all, of an image model's blocks.
"""

from __future__ import annotations

from lego_ray.formats.base_model import base_model_in
from lego_ray.formats.diffusers_keys import component_of, plain_path
from lego_ray.formats.kohya import CARRIED_FIELDS
from lego_ray.formats.lone import FullWeights, LoneFile, read_lone
from lego_ray.formats.lone_config import METADATA
from lego_ray.formats.peft_keys import PREFIX
from lego_ray.formats.record import AdapterHeaders, AdapterRecord

OF_PEFT = (
    "its names are PEFT's and it has no adapter_config.json: alpha is taken to be the rank, as "
    "ComfyUI and diffusers take it"
)

# Of settings in the header, each of a component of diffusers'.
UNUSED = (
    "has an alpha for {}, with which none of its keys begins: alpha is taken to be the rank, as ComfyUI "
    "takes it; diffusers scales by that alpha"
)


def read_adapter(
    headers: AdapterHeaders, full_weights: FullWeights = "refuse", *, with_base: bool = False
) -> AdapterRecord:
    """Describes a file of dotted names from its headers, having checked all that headers can show.

    The record's `config` holds `kohya.CARRIED_FIELDS`, and `adapter`, the adapter's name in the keys.

    Args:
        headers: The adapter's.
        full_weights: As in `lone.read_lone`.
        with_base: As in `lone.read_lone`.

    Raises:
        UnsupportedAdapter: If it is not a plain LoRA.
        RankMismatch: If the ranks of a site's factors differ, or are not the ones configured.
        MalformedAdapter: If the file is damaged, incomplete, or contradicts itself.
    """
    found = read_lone(headers, plain_path, full_weights, has_config=True, with_base=with_base)
    notes = found.notes
    bare = any(s.site.startswith(PREFIX) and s.alpha is None for s in found.sites)
    if bare and not found.configs:
        notes = (*notes, OF_PEFT)
    if unused := _unused(found):
        notes = (*notes, f"{METADATA} {UNUSED.format(unused)}")
    named = next((name for c in found.configs.values() if (name := c.settings.base_model)), "")
    config: dict[str, object] = {
        name: headers.metadata[name] for name in CARRIED_FIELDS if headers.metadata.get(name)
    }
    return headers.record(
        format="comfyui",
        base_model=base_model_in(headers.metadata) or headers.base_model or named,
        sites=found.sites,
        differences=found.differences,
        config={**config, "adapter": found.adapter},
        notes=notes,
    )


def _unused(found: LoneFile) -> str:
    """The first component of the header's settings that no site is of, where its alpha would count."""
    here = {component_of(site.site) for site in found.sites}
    for name, config in sorted(found.configs.items()):
        said = config.settings
        is_scaled = said.lora_alpha != said.r or said.alpha_pattern
        if name and name not in here and is_scaled:
            return name
    return ""
