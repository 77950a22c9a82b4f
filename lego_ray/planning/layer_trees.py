"""What layers of vision models are called before transformers 5 and since. Pure.

transformers 5 gave ViT, BEiT, DINOv2, Swin, SegFormer, DETR and their kin the names that its language
models have: `encoder.layer.0.attention.attention.query` became `layers.0.attention.q_proj`. A model in
memory has the new names, as have adapters trained on it; the files of a base model keep the old ones.
The rules are those of transformers' `conversion_mapping`. Models that were not renamed, BERT among them,
have names that look like old ones, so a name is changed only where another adapter has the new ones.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass

# A path up to a block of layers, the block, and the module in it.
_SITE = re.compile(
    r"(?P<lead>(?:[^.]+\.)*?)(?P<block>encoder\.layer\.\d+|encoder\.block\.\d+\.\d+|"
    r"stages\.\d+\.blocks\.\d+|layers\.\d+\.blocks\.\d+|(?:decoder_)?layers\.\d+)\.(?P<inner>.+)"
)
# Blocks by their former names. Some models kept the first one.
_BLOCKS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"encoder\.layer\.(\d+)"), r"layers.\1"),
    (re.compile(r"encoder\.block\.(\d+)\.(\d+)"), r"stages.\1.blocks.\2"),
)
_KEPT_BLOCK = "encoder.layer."
_END = r"(?P<end>\.weight|\.bias)?"


@dataclass(frozen=True, slots=True)
class _Renaming:
    """Names of modules in a block that changed together.

    Attributes:
        rules: Expressions for former names, and what each became.
        new: Names of today that tell of the change.
    """

    rules: tuple[tuple[re.Pattern[str], str], ...]
    new: re.Pattern[str]


_ATTENTION = r"attention\.(?:attention|self)\."
_RENAMINGS = (
    _Renaming(
        (
            (re.compile(rf"{_ATTENTION}query{_END}"), "attention.q_proj"),
            (re.compile(rf"{_ATTENTION}key{_END}"), "attention.k_proj"),
            (re.compile(rf"{_ATTENTION}value{_END}"), "attention.v_proj"),
            (re.compile(rf"attention\.output\.dense{_END}"), "attention.o_proj"),
            (re.compile(rf"(?:intermediate\.dense|mlp\.dense1){_END}"), "mlp.fc1"),
            (re.compile(rf"(?:output\.dense|mlp\.dense2){_END}"), "mlp.fc2"),
        ),
        re.compile(r"attention\.[qkvo]_proj|mlp\.fc[12]"),
    ),
    _Renaming(
        (
            (re.compile(rf"self_attn\.out_proj{_END}"), "self_attn.o_proj"),
            (re.compile(rf"encoder_attn\.out_proj{_END}"), "encoder_attn.o_proj"),
        ),
        re.compile(r"(?:self|encoder)_attn\.o_proj"),
    ),
    _Renaming(
        (
            (re.compile(rf"fc1{_END}"), "mlp.fc1"),
            (re.compile(rf"fc2{_END}"), "mlp.fc2"),
        ),
        re.compile(r"mlp\.fc[12]"),
    ),
)


def in_new_layers(name: str) -> str:
    """A module's or tensor's name as transformers 5 would have it; serves to compare names.

    Args:
        name: The name, in either form, or of a model that was not renamed.
    """
    found = _SITE.fullmatch(name)
    if found is None:
        return name
    inner = found["inner"]
    for renaming in _RENAMINGS:
        inner = _renamed(inner, renaming) or inner
    return f"{found['lead']}{_block_of(found['block'])}.{inner}"


def layer_renames(adapters: Collection[Iterable[str]]) -> dict[str, str]:
    """New names of sites, where the adapters of a merge have both forms for the layers of one place.

    Args:
        adapters: The sites of each adapter, in any order.

    Returns:
        By old name; empty where there is one form.
    """
    out: dict[str, str] = {}
    several = [tuple(sites) for sites in adapters]
    for renaming in _RENAMINGS:
        old: dict[str, set[int]] = defaultdict(set)
        new: dict[str, set[int]] = defaultdict(set)
        called: dict[str, str] = {}
        wanted: dict[str, tuple[str, re.Match[str], str]] = {}
        for number, sites in enumerate(several):
            for site in sites:
                found = _SITE.fullmatch(site)
                if found is None:
                    continue
                place = _place(found["lead"] + _block_of(found["block"]))
                if inner := _renamed(found["inner"], renaming):
                    old[place].add(number)
                    wanted[site] = (place, found, inner)
                elif renaming.new.fullmatch(found["inner"]) and not (
                    # Of models that kept this block, the names of the MLP were never others.
                    found["block"].startswith(_KEPT_BLOCK) and found["inner"].startswith("mlp.")
                ):
                    new[place].add(number)
                    called[place] = _place(found["block"])
        for site, (place, found, inner) in wanted.items():
            if place in called and not old[place] & new[place]:
                block = _filled(called[place], found["block"])
                out[site] = f"{found['lead']}{block}.{inner}"
    return out if all(_are_apart(sites, out) for sites in several) else {}


def _renamed(inner: str, renaming: _Renaming) -> str:
    for old, new in renaming.rules:
        if found := old.fullmatch(inner):
            return new + (found["end"] or "")
    return ""


def _block_of(block: str) -> str:
    for old, new in _BLOCKS:
        block = old.sub(new, block)
    return block


def _place(path: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "#", path)


def _filled(block: str, numbered: str) -> str:
    """A block's name with the numbers of another name of it."""
    for number in re.findall(r"\d+", numbered):
        block = block.replace("#", number, 1)
    return block


def _are_apart(sites: Collection[str], renames: dict[str, str]) -> bool:
    return len({renames.get(site, site) for site in sites}) == len(sites)
