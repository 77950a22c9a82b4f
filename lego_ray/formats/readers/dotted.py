"""Rules for files of dotted names: ComfyUI's, and diffusers' converters of them.

A file has pairs of factors and nothing else. Without an alpha, the scale is 1 to all readers.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator

from lego_ray.formats.differences import split_end
from lego_ray.formats.module_names import parse_name
from lego_ray.formats.readers.differences import of_differences
from lego_ray.formats.readers.models import of_models
from lego_ray.formats.readers.outgoing import Finding, Outgoing
from lego_ray.formats.readers.prefixes import of_prefixes
from lego_ray.formats.suffixes import parse_suffix

# Of Wan's authors: projections of an image, and modules outside of the blocks.
_WAN_IMAGE = re.compile(r"blocks\.\d+\.cross_attn\.[kv]_img")
_WAN_OUTSIDE = re.compile(
    r"(?:time|text)_(?:embedding\.[02]|projection\.1)|head\.head|img_emb\.proj\.\d"
)
_BLOCK = re.compile(r"blocks\.\d+\.")
_AGAIN = "Merge again from the sources; an earlier version may have written it."


def findings(outgoing: Outgoing) -> Iterator[Finding]:
    """What readers make of an output.

    Args:
        outgoing: It.
    """
    ranks: dict[str, dict[str, int]] = defaultdict(dict)
    sizes: dict[str, dict[str, int]] = defaultdict(dict)
    for key, shape in outgoing.shapes.items():
        factor = parse_suffix(key)
        if split_end(key) and 0 not in shape:
            continue
        if 0 in shape or len(shape) < 2:
            yield Finding(f"{key} has shape {list(shape)}, which no reader takes", True, _AGAIN)
        elif factor is None:
            yield Finding(f"{key} is of no LoRA, and readers drop it", True, _AGAIN)
        else:
            rank, size = shape[:2] if factor.half == "A" else shape[1::-1]
            ranks[factor.stem][factor.half], sizes[factor.stem][factor.half] = rank, size
    for site, found in ranks.items():
        if len(found) != 2:
            yield Finding(f"{site} has one factor of two, and readers raise", True, _AGAIN)
        elif found["A"] != found["B"]:
            problem = f"{site} has rank {found['A']} in one factor and {found['B']} in the other"
            yield Finding(f"{problem}, and readers raise", True, _AGAIN)
    yield from _of_wan(ranks)
    widths = {site: (found["A"], found["B"]) for site, found in sizes.items() if len(found) == 2}
    yield from of_models(widths, is_dotted=True)
    yield from of_prefixes(ranks)
    yield from of_differences(outgoing.shapes, ranks)


def _of_wan(sites: Collection[str]) -> Iterator[Finding]:
    """Names of Wan's authors that diffusers' converter takes in whole files alone."""
    paths = {name for site in sites if (name := parse_name(site).path)}
    images = {path.rpartition(".")[2] for path in paths if _WAN_IMAGE.fullmatch(path)}
    if len(images) == 1:
        [name] = images
        lacking = "v_img" if name == "k_img" else "k_img"
        yield Finding(
            f"it has {name} of Wan and no {lacking}, and diffusers raises; ComfyUI loads it"
        )
    if any(_WAN_OUTSIDE.fullmatch(p) for p in paths) and not any(_BLOCK.match(p) for p in paths):
        problem = "it has modules of Wan outside of its blocks alone, and diffusers raises"
        yield Finding(f"{problem}; ComfyUI loads it")
