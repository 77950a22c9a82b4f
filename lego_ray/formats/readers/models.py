"""What diffusers leaves of files with names that it converts in part or not at all, by the model.

By its converters of release 0.42. Its own layout, `--layout diffusers`, is read whole.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping

from lego_ray.formats.module_names import flattened, parse_name
from lego_ray.formats.readers.outgoing import Finding

# How many times as many outputs as inputs a module has: this tells Flux.2 from Flux.1 and Chroma.
_OF_FLUX_1 = {"img_mlp_0": 4, "txt_mlp_0": 4, "linear1": 7}
_OF_FLUX_2 = {"img_mlp_0": 6, "txt_mlp_0": 6, "linear1": 9}
_FLUX = re.compile(
    r"double_blocks_\d+_(?P<double>(?:img|txt)_(?:attn_(?:qkv|proj)|mlp_[02]))|"
    r"single_blocks_\d+_(?P<single>linear[12])"
)
_MODULATED = re.compile(r"double_blocks_\d+_(img|txt)_mod_lin|single_blocks_\d+_modulation_lin")
_SD3 = re.compile(r"joint_blocks_\d+_")
# Z-Image's of its authors, which Lumina 2 has at another width.
_Z_IMAGE = re.compile(r"(?:layers|noise_refiner|context_refiner)_\d+_attention_(?:qkv|out)")
_Z_WIDTH = 3840
_Z_OUTSIDE = re.compile(r"x_embedder|final_layer_")
# Lumina 2's width, and the outputs of its q, k and v together.
_LUMINA = (2304, 3840)
_LUMINA_BLOCK = re.compile(
    r"(?P<block>(?:layers|noise_refiner|context_refiner)_\d+)_(?P<module>\w+)"
)
_LUMINA_MODULES = frozenset(
    {"attention_qkv", "attention_out", *(f"feed_forward_w{n}" for n in (1, 2, 3))}
)
_LUMINA_NORM = "adaLN_modulation_1"
# OneTrainer's of Flux.1.
_ONETRAINER = "lora_transformer_"
_ONETRAINER_READ = re.compile(
    r"(?:single_)?transformer_blocks_\d+_attn_(?:to_[qkv]|to_out_0|to_add_out|add_[qkv]_proj)|"
    r"context_embedder|norm_out_linear|proj_out|x_embedder|"
    r"time_text_embed_(?:guidance|text|timestep)_embedder_linear_\d"
)
_SINGLE = "single_transformer_blocks_"
_INSTEAD = "--layout diffusers is read whole"


def of_models(widths: Mapping[str, tuple[int, int]], *, is_dotted: bool) -> Iterator[Finding]:
    """What diffusers drops of a file by its modules' names.

    Args:
        widths: Inputs and outputs of each module that has factors.
        is_dotted: Whether the names are dotted, with `lora_A` and `lora_B`; else they are kohya's.
    """
    paths = {flattened(parse_name(site).path): site for site in widths}
    sd3 = next((site for path, site in paths.items() if _SD3.match(path)), None)
    if sd3 is not None:
        yield Finding(
            f"diffusers loads nothing of Stable Diffusion 3 under names such as {sd3}; ComfyUI does, "
            f"and {_INSTEAD}"
        )
    if is_dotted:
        yield from _of_flux(paths, widths)
    yield from _of_z_image(paths, widths, is_dotted=is_dotted)
    yield from _of_lumina(paths, widths, is_dotted=is_dotted)
    yield from _of_onetrainer(widths)


def _of_flux(paths: Mapping[str, str], widths: Mapping[str, tuple[int, int]]) -> Iterator[Finding]:
    found = {path: match for path in paths if (match := _FLUX.match(path))}
    named = min((paths[path] for path, match in found.items() if match["double"]), default="")
    modulated = min(
        (site for path, site in paths.items() if _MODULATED.fullmatch(path)), default=""
    )
    if not named and not modulated:
        return
    ratios: set[tuple[str, float]] = set()
    for path, match in found.items():
        d_in, d_out = widths[paths[path]]
        ratios.add((match["double"] or match["single"], d_out / d_in))
    if not modulated and ratios & set(_OF_FLUX_2.items()):
        return
    sure = modulated or ratios & set(_OF_FLUX_1.items())
    yield Finding(
        f"diffusers loads nothing of Flux.1, Chroma and HunyuanVideo under names such as "
        f"{named or modulated}"
        f"{'' if sure else ' (of Flux.2 it does)'}; ComfyUI does, and {_INSTEAD}"
    )


def _of_z_image(
    paths: Mapping[str, str], widths: Mapping[str, tuple[int, int]], *, is_dotted: bool
) -> Iterator[Finding]:
    fused = [site for path, site in paths.items() if _Z_IMAGE.fullmatch(path)]
    if not any(widths[site][0] == _Z_WIDTH for site in fused):
        return
    lost = [site for path, site in paths.items() if _Z_OUTSIDE.match(path)]
    lost += fused if is_dotted else []
    if lost:
        yield Finding(
            f"diffusers drops {len(lost)} of the {len(paths)} modules of Z-Image under these names, "
            f"such as {min(lost)}; ComfyUI loads them, and {_INSTEAD}"
        )


def _of_lumina(
    paths: Mapping[str, str], widths: Mapping[str, tuple[int, int]], *, is_dotted: bool
) -> Iterator[Finding]:
    if not any(path.endswith("_qkv") and widths[site] == _LUMINA for path, site in paths.items()):
        return
    if not is_dotted:
        yield Finding(
            f"diffusers loads nothing of Lumina 2 under names such as {min(widths)}; ComfyUI does, and "
            f"{_INSTEAD}"
        )
        return
    blocks: dict[str, set[str]] = defaultdict(set)
    outside = ""
    for path, site in paths.items():
        if found := _LUMINA_BLOCK.fullmatch(path):
            blocks[found["block"]].add(found["module"])
        else:
            outside = min(outside or site, site)
    whole = all(
        modules == _LUMINA_MODULES | ({_LUMINA_NORM} if not block.startswith("context") else set())
        for block, modules in blocks.items()
    )
    if outside or not whole:
        yield Finding(
            "diffusers takes Lumina 2 under these names only with every module of each block and none "
            f"outside of them, and raises at this one; ComfyUI loads it, and {_INSTEAD}"
        )


def _of_onetrainer(sites: Mapping[str, object]) -> Iterator[Finding]:
    paths = [
        site.removeprefix(_ONETRAINER)
        for site in sites
        if site.startswith(_ONETRAINER) and not site.startswith(f"{_ONETRAINER}te")
    ]
    unread = min((path for path in paths if not _ONETRAINER_READ.fullmatch(path)), default="")
    if paths and (unread or not any(path.startswith(_SINGLE) for path in paths)):
        yield Finding(
            f"diffusers takes names that begin with {_ONETRAINER} for those of Flux.1's attention, and "
            f"raises at others or drops them, such as {_ONETRAINER}{unread or min(paths)}; {_INSTEAD}"
        )
