"""Rules for files of dotted names: ComfyUI's, and diffusers' converters of them.

A file has pairs of factors and nothing else. Without an alpha, the scale is 1 to all readers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from lego_ray.formats.differences import split_end
from lego_ray.formats.readers.differences import of_differences
from lego_ray.formats.readers.outgoing import Finding, Outgoing
from lego_ray.formats.suffixes import parse_suffix

_AGAIN = "Merge again from the sources; an earlier version may have written it."


def findings(outgoing: Outgoing) -> Iterator[Finding]:
    """What readers make of an output.

    Args:
        outgoing: It.
    """
    ranks: dict[str, dict[str, int]] = defaultdict(dict)
    for key, shape in outgoing.shapes.items():
        factor = parse_suffix(key)
        if split_end(key) and 0 not in shape:
            continue
        if 0 in shape or len(shape) < 2:
            yield Finding(f"{key} has shape {list(shape)}, which no reader takes", True, _AGAIN)
        elif factor is None:
            yield Finding(f"{key} is of no LoRA, and readers drop it", True, _AGAIN)
        else:
            ranks[factor.stem][factor.half] = shape[0 if factor.half == "A" else 1]
    for site, found in ranks.items():
        if len(found) != 2:
            yield Finding(f"{site} has one factor of two, and readers raise", True, _AGAIN)
        elif found["A"] != found["B"]:
            problem = f"{site} has rank {found['A']} in one factor and {found['B']} in the other"
            yield Finding(f"{problem}, and readers raise", True, _AGAIN)
    yield from of_differences(outgoing.shapes, ranks)
