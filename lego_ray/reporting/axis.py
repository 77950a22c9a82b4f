"""Sites along an axis: by layer where their names have layers, and by kind of module."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lego_ray.planning.cutting import layer_of
from lego_ray.reporting.blocks import Block, blocks_of
from lego_ray.reporting.drawing import MARKERS

OTHER = "other modules"


@dataclass(frozen=True, slots=True)
class Axis:
    """Where sites go.

    Attributes:
        label: What the axis says.
        positions: Of each site.
        kinds: Kind of module of each site, of no more kinds than there are markers.
        names: The kinds, in the order of a legend.
        by_layer: Whether positions are layers.
        families: Of blocks by name: the first and the last position of each family.
    """

    label: str
    positions: Sequence[int]
    kinds: Sequence[str]
    names: Sequence[str]
    by_layer: bool
    families: Mapping[str, tuple[int, int]] = field(default_factory=dict)


def natural(site: str) -> list[tuple[int, str]]:
    """Sort key that puts layer 2 before layer 10, with dots or without."""
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in re.split(r"(\d+)", site)]


def axis_of(sites: Sequence[str]) -> Axis:
    """The axis of some sites, in natural order.

    They are put by layer if all have one of a single stack, such as `model.layers.3`; by block if they
    are of an image model's blocks, such as `down_blocks.0`; and one after another otherwise. A kind is
    what follows the layer or block, or else the last part of the name.
    """
    layers = [layer_of(site) for site in sites]
    by_layer = bool(sites) and all(layers) and len({re.sub(r"\d+$", "", e) for e in layers}) == 1
    kinds = [site.rsplit(".", 1)[-1] for site in sites]
    if by_layer:
        whole = [site[len(layer) + 1 :] or site for site, layer in zip(sites, layers, strict=True)]
        kinds = whole if len(set(whole)) <= len(MARKERS) else kinds
    blocks = None if by_layer else blocks_of(sites)
    if blocks is not None:
        whole = [block.kind for block in blocks]
        kinds = whole if len(set(whole)) <= len(MARKERS) else kinds
    found = Counter(kinds)
    if len(found) > len(MARKERS):
        common = {kind for kind, n in found.most_common(len(MARKERS) - 1) if n > 1}
        kinds = [kind if kind in common else OTHER for kind in kinds]
    names = sorted(dict.fromkeys(kinds), key=lambda kind: (kind == OTHER, kinds.index(kind)))
    if by_layer:
        numbers = [int(re.findall(r"\d+$", layer)[0]) for layer in layers]
        return Axis("layer", numbers, kinds, names, True)
    if blocks is not None:
        return _by_block(blocks, kinds, names)
    return Axis("site, in order", range(1, len(sites) + 1), kinds, names, False)


def _by_block(blocks: Sequence[Block], kinds: Sequence[str], names: Sequence[str]) -> Axis:
    order = sorted({block.order for block in blocks})
    at = {key: position for position, key in enumerate(order, 1)}
    positions = [at[block.order] for block in blocks]
    families: dict[str, tuple[int, int]] = {}
    for block, here in sorted(zip(blocks, positions, strict=True), key=lambda each: each[1]):
        first, _ = families.get(block.family, (here, here))
        families[block.family] = (first, here)
    return Axis("block, in the order of the model", positions, kinds, names, False, families)
