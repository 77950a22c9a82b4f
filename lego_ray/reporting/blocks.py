"""Blocks of image models by name: down, mid and up of a UNet, double and single of a transformer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# What files call the blocks of each family, in the order in which data goes through them.
_FAMILIES = {
    "text encoder": (),
    "down": ("down_blocks", "input_blocks"),
    "mid": ("mid_block", "middle_block"),
    "up": ("up_blocks", "output_blocks"),
    "double": ("double_blocks", "transformer_blocks"),
    "joint": ("joint_blocks",),
    "single": ("single_blocks", "single_transformer_blocks"),
    "other": (),
}
_FAMILY_OF = {name: family for family, names in _FAMILIES.items() for name in names}
_ORDER = list(_FAMILIES)
# Longer names first, so that `single_transformer_blocks` is not taken for `transformer_blocks`.
_NAMES = "|".join(sorted(_FAMILY_OF, key=len, reverse=True))
_BLOCK = re.compile(rf"(?:^|[._])(?P<name>{_NAMES})(?:[._](?P<number>\d+))?(?:[._]|$)")
_TEXT = re.compile(r"(?:lora_te\d?_|(?:lora_)?text_encoders?[\d._]|cond_stage_model)")
# Of a UNet's block: the parts between it and the module.
_WITHIN = re.compile(
    r"(?:(?:attentions|resnets|transformer_blocks|downsamplers|upsamplers)[._])?\d+[._]"
)


@dataclass(frozen=True, slots=True)
class Block:
    """Where a site is in an image model.

    Attributes:
        family: Such as `down` or `single`.
        number: Of the block in its family; 0 where it has none.
        kind: The module in the block.
    """

    family: str
    number: int
    kind: str

    @property
    def order(self) -> tuple[int, int]:
        """Sort key that puts blocks in the order of the model."""
        return _ORDER.index(self.family), self.number


@dataclass(frozen=True, slots=True)
class BlockFigures:
    """A figure over the sites of a family of blocks.

    Attributes:
        family: Its name.
        blocks: How many blocks it has.
        sites: How many sites.
        median: Of the figure.
        most: The largest.
    """

    family: str
    blocks: int
    sites: int
    median: float
    most: float


def blocks_of(sites: Sequence[str]) -> list[Block] | None:
    """The block of each site, or None if the sites are not those of an image model's blocks.

    They are if most are in a block by name, and the blocks are of several families, text encoders and
    others counted: a single stack has layers.
    """
    found = [_block(site) for site in sites]
    named = [block for block in found if block.family not in ("text encoder", "other")]
    if 2 * len(named) <= len(found) or len({block.family for block in found}) < 2:
        return None
    return found


def by_family(rows: Sequence[tuple[Any, float]]) -> list[BlockFigures]:
    """A figure of sites by family of blocks, in the order of the model; empty where there are none.

    Args:
        rows: Sites, each with a `site` that is its name, and the figure.
    """
    blocks = blocks_of([row.site for row, _ in rows])
    if blocks is None:
        return []
    out = []
    for family in _ORDER:
        here = [(b, v) for b, (_, v) in zip(blocks, rows, strict=True) if b.family == family]
        if here:
            values = [value for _, value in here]
            numbers = {block.number for block, _ in here}
            figures = float(np.median(values)), max(values)
            out.append(BlockFigures(family, len(numbers), len(here), *figures))
    return out


def _block(site: str) -> Block:
    if _TEXT.match(site):
        return Block("text encoder", 0, site.rpartition(".")[2])
    match = _BLOCK.search(site)
    if match is None:
        return Block("other", 0, site.rpartition(".")[2])
    kind = site[match.end() :]
    while (within := _WITHIN.match(kind)) is not None:
        kind = kind[within.end() :]
    return Block(_FAMILY_OF[match["name"]], int(match["number"] or 0), kind or match["name"])
