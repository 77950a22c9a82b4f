"""The names of text encoders in the layout that a merge is asked to be written in. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lego_ray.errors import LayoutMismatch
from lego_ray.formats.architectures.text import CLIP, T5
from lego_ray.formats.diffusers_keys import COMPONENTS, component_of
from lego_ray.formats.module_names import DENOISER, ModuleName, flattened
from lego_ray.formats.record import AdapterRecord
from lego_ray.formats.text_encoders import clip_l_of, parse_names

_HINT = "Leave out --layout to keep the names that the adapters have."
_ONE = (
    "For the denoiser alone, take the other keys out of the adapters, or leave out the adapters that "
    "have them with --exclude."
)

# What names of text encoders begin with in a layout.
_TEXT: Mapping[str, Mapping[str, str]] = {
    "kohya": {"text 1": "lora_te1_", "text 2": "lora_te2_", "t5": "lora_te3_"},
    "diffusers": {"text 1": "text_encoder.", "text 2": "text_encoder_2."},
    "comfyui": {
        "text 1": "text_encoders.clip_l.transformer.",
        "text 2": "text_encoders.clip_g.transformer.",
        "t5": "text_encoders.t5xxl.transformer.",
    },
}


def text_names(
    adapters: Sequence[AdapterRecord], layout: str, base_model: str = ""
) -> Mapping[str, str]:
    """What a layout calls the modules of text encoders, by the names that adapters have for them.

    Args:
        adapters: Of image models.
        layout: The layout: `peft`, `kohya`, `diffusers` or `comfyui`.
        base_model: Name of the base model; may be empty.

    Raises:
        LayoutMismatch: If the name of one is not known.
    """
    uris = {factors.site: adapter.uri for adapter in adapters for factors in adapter.sites}
    names = parse_names(uris, base_model)
    prefixes = dict(_TEXT.get(layout, {}))
    clip_l = clip_l_of(uris, base_model)
    if layout == "comfyui" and clip_l != "text 1":
        prefixes = {clip_l: prefixes["text 1"], "t5": prefixes["t5"]}
    if any(name.component == "t5" and name.number == 1 for name in names.values()):
        prefixes.update({"kohya": {"t5": "lora_te1_"}}.get(layout, {}))
    return {
        site: _text(name, layout, prefixes, uris[site])
        for site, name in names.items()
        if name.component != DENOISER
    }


def _holding(component: str) -> str:
    """What to do where a layout does not hold a text encoder."""
    able = [layout for layout, prefixes in _TEXT.items() if component in prefixes]
    asked = " or ".join(f"--layout {layout}" for layout in able)
    instead = f"Ask for {asked}, which holds text encoders too. " if able else ""
    return f"{instead}{_HINT} {_ONE}"


def _text(name: ModuleName, layout: str, prefixes: Mapping[str, str], uri: str) -> str:
    prefix = prefixes.get(name.component)
    reading = (T5 if name.component == "t5" else CLIP).read(name.path)
    if not name.is_text and layout == "diffusers" and component_of(name.site) in COMPONENTS:
        return name.site
    if not name.is_text:
        problem = (
            f"{name.site} is of a second denoiser or another part of the pipeline, and a merge in "
            f"{layout}'s layout has the modules of one denoiser alone"
        )
        raise LayoutMismatch(
            uri, problem, f"Ask for --layout diffusers, or leave out --layout. {_ONE}"
        )
    if layout == "peft":
        problem = (
            f"{name.site} is of a text encoder, and a merge in peft's layout has the modules of the "
            "denoiser alone"
        )
        raise LayoutMismatch(uri, problem, _holding(name.component))
    if prefix is None or reading is None:
        problem = f"what {name.site} is called in {layout}'s layout is not known"
        raise LayoutMismatch(uri, problem, _HINT)
    path = reading.path("original")
    return f"{prefix}{flattened(path) if layout == 'kohya' else path}"
