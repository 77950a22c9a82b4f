"""Rules for kohya's layout: ComfyUI's and sd-scripts' keys, and diffusers' converters of them.

`<name>.alpha` over the rank is the scale; without one it is 1 to ComfyUI and sd-scripts. musubi-tuner,
and diffusers' converters of its Wan files and of OneTrainer's Flux files, demand one of each module.
diffusers' converter of Stable Diffusion's files applies one alpha to all modules, so where these differ
there must be none.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping

from lego_ray.formats.differences import split_end
from lego_ray.formats.readers.differences import of_differences
from lego_ray.formats.readers.models import of_models
from lego_ray.formats.readers.outgoing import Finding, Outgoing
from lego_ray.formats.readers.prefixes import of_prefixes

ALPHA = ".alpha"
DOWN = ".lora_down.weight"
UP = ".lora_up.weight"

# Modules of Stable Diffusion: its UNet's blocks by either set of names, and its text encoders.
_STABLE_DIFFUSION = re.compile(
    r"lora_unet_(down_blocks|mid_block|up_blocks|input_blocks|middle_block|output_blocks|conv_in|"
    r"conv_out|conv_norm_out|time_embed|time_embedding|add_embedding|label_emb|out_\d)|lora_te\d?_"
)
_TEXT_ENCODER = re.compile(r"lora_te\d?_")
# Modules that a converter of diffusers takes alpha of, whether it is there or not.
_NEEDS_ALPHA = re.compile(
    r"lora_unet_blocks_\d+_(self_attn|cross_attn|ffn)_|lora_transformer_(?!te)"
)
_WAN = re.compile(r"lora_unet_blocks_(?P<block>\d+)_(?P<module>(self_attn|cross_attn|ffn)_\w+)")
# Those of each block, all of which diffusers' converter takes.
_WAN_BLOCK = frozenset(
    [f"{attn}_attn_{part}" for attn in ("self", "cross") for part in "qkvo"] + ["ffn_0", "ffn_2"]
)
_WAN_IMAGE = frozenset({"cross_attn_k_img", "cross_attn_v_img"})
_PREFIX = re.compile(r"(lora|lycoris)_[a-z0-9]+_")
# What ComfyUI maps flattened names by.
_COMFYUI = (
    *("lora_unet_", "lora_prior_", "lora_transformer_", "lora_te_", "lora_te1_", "lora_te2_"),
    *("lora_te3_", "lycoris_"),
)
_AGAIN = "Merge again from the sources; an earlier version may have written it."


def wants_alphas(sites: Iterable[str], *, is_mixed: bool) -> bool:
    """Whether a file is to have alphas, each of them its module's rank.

    Args:
        sites: The modules, as the file names them.
        is_mixed: Whether their ranks differ.
    """
    return not is_mixed or not _is_stable_diffusion(sites)


def findings(outgoing: Outgoing) -> Iterator[Finding]:
    """What readers make of an output.

    Args:
        outgoing: It.
    """
    halves: dict[str, dict[str, tuple[int, ...]]] = defaultdict(dict)
    alphas: dict[str, str] = {}
    for key, shape in outgoing.shapes.items():
        if 0 in shape:
            yield Finding(f"{key} has shape {list(shape)}, which no reader takes", True, _AGAIN)
        for suffix in (DOWN, UP):
            if key.endswith(suffix):
                halves[key.removesuffix(suffix)][suffix] = shape
        if key.endswith(ALPHA):
            alphas[key.removesuffix(ALPHA)] = key
        elif not key.endswith((DOWN, UP)) and not split_end(key):
            yield Finding(f"{key} is of no LoRA, and readers drop it", True, _AGAIN)
    for site, found in halves.items():
        if len(found) != 2:
            yield Finding(f"{site} has one factor of two, and readers raise", True, _AGAIN)
        elif found[DOWN][0] != found[UP][1]:
            problem = (
                f"{site} has rank {found[DOWN][0]} in one factor and {found[UP][1]} in the other"
            )
            yield Finding(f"{problem}, and readers raise", True, _AGAIN)
        elif site in alphas and alphas[site] in outgoing.numbers:
            alpha = outgoing.numbers[alphas[site]]
            if alpha != found[DOWN][0]:
                problem = (
                    f"readers multiply {site} by {alpha / found[DOWN][0]:g}; it is stored for 1"
                )
                yield Finding(problem, True, _AGAIN)
    yield from _of_alphas(halves, alphas)
    yield from _of_names(halves)
    widths = {s: (f[DOWN][1], f[UP][0]) for s, f in halves.items() if len(f) == 2}
    yield from of_models(widths, is_dotted=False)
    yield from of_prefixes(halves)
    yield from of_differences(outgoing.shapes, halves)


def _of_alphas(
    halves: Mapping[str, Mapping[str, tuple[int, ...]]], alphas: Collection[str]
) -> Iterator[Finding]:
    lost = next((site for site in alphas if site not in halves), None)
    if lost is not None:
        yield Finding(f"{lost}{ALPHA} is of no module in the file, and readers raise", True, _AGAIN)
    bare = next((site for site in halves if site not in alphas and _NEEDS_ALPHA.match(site)), None)
    if bare is not None:
        yield Finding(f"{bare} has no alpha, and diffusers raises KeyError", True, _AGAIN)
    ranks = {found[DOWN][0] for found in halves.values() if DOWN in found}
    if alphas and len(ranks) > 1 and _is_stable_diffusion(halves):
        problem = "its alphas differ, and diffusers applies one of them to all modules"
        yield Finding(problem, True, _AGAIN)


def _of_names(sites: Collection[str]) -> Iterator[Finding]:
    unknown = next((s for s in sites if _PREFIX.match(s) and not s.startswith(_COMFYUI)), None)
    if unknown is not None:
        yield Finding(f"ComfyUI knows no model by the first part of {unknown}, and drops it")
    blocks: dict[int, set[str]] = defaultdict(set)
    for site in sites:
        if found := _WAN.fullmatch(site):
            blocks[int(found["block"])].add(found["module"])
    if not any(modules & (_WAN_BLOCK | _WAN_IMAGE) for modules in blocks.values()):
        return  # Anima's blocks have modules of other names
    image = _WAN_IMAGE if any(_WAN_IMAGE & modules for modules in blocks.values()) else frozenset()
    whole = _WAN_BLOCK | image
    if set(blocks) != set(range(len(blocks))) or any(m != whole for m in blocks.values()):
        yield Finding(
            "diffusers takes Wan files of these names only with every module of each block from 0 "
            "on, and this one lacks some; ComfyUI loads it"
        )
    outside = min(
        (s for s in sites if s.startswith("lora_unet_") and "blocks_" not in s), default=""
    )
    if outside:
        yield Finding(
            "diffusers raises at modules of Wan outside of its blocks under these names, such as "
            f"{outside}; ComfyUI loads it"
        )


def _is_stable_diffusion(sites: Iterable[str]) -> bool:
    """Whether diffusers would read these names with its converter of Stable Diffusion's files."""
    others = [site for site in sites if not _TEXT_ENCODER.match(site)]
    return not others or any(_STABLE_DIFFUSION.match(site) for site in others)
