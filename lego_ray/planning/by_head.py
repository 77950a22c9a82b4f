"""MiniMax-H3's fused projection, whose rows DiffSynth orders by heads and all others by parts. Pure.

Shapes and names are the same. What tells them apart is the adapter's name that DiffSynth leaves in its
keys, as diffusers' `_convert_non_diffusers_minimax_h3_lora_to_diffusers` has it. DiffSynth can train on
Comfy-Org's checkpoint too, and then its rows are by parts and its keys are the same: diffusers misreads
such a file, and nothing in it shows that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from lego_ray.errors import LayoutMismatch
from lego_ray.formats.module_names import parse_name
from lego_ray.formats.record import AdapterRecord
from lego_ray.formats.site_factors import SiteFactors

# Begins the note of an adapter whose rows stand in another order than in the merge.
REORDERED = "rows of q, k and v stand in another order in the merge:"

_QKV = re.compile(r"(?:token_refiner[._])?blocks[._]\d+[._]attn[._]qkv_proj")
_SPLIT = re.compile(r"(?:token_refiner[._]refiner|transformer)_blocks[._]\d+[._]attn[._]to_[qkv]")
_MARK = "default"
_PARTS, _WIDTH = 3, 128  # q, k and v; rows of one of them in one head

_HINT = "Merge those of DiffSynth separately: leave out the others with --exclude."


def is_by_heads(config: Mapping[str, object]) -> bool:
    """Whether the rows of an adapter, or of a merge, are by heads if it is of MiniMax-H3.

    Args:
        config: Of an adapter as it is read, or what a merge took over of its adapters'.
    """
    return config.get("adapter") == _MARK


def is_fused_h3(site: str) -> bool:
    """Whether a name is that of MiniMax-H3's fused projection.

    Args:
        site: Name of a module.
    """
    return _QKV.fullmatch(parse_name(site).path) is not None


def in_order_of_parts(
    adapters: Sequence[AdapterRecord], asked: str = "sources"
) -> Sequence[AdapterRecord]:
    """The adapters, with all rows by parts where some have them by heads and not all can stay so.

    Args:
        adapters: As they are read.
        asked: The layout whose names are asked for, or `sources` for theirs.

    Returns:
        The same ones if there is nothing to do: none has rows by heads, or all of them are DiffSynth's
        and the merge is written as they are.

    Raises:
        LayoutMismatch: If an adapter has what cannot be put in the other order.
    """
    if not any(is_by_heads(a.config) and any(map(_is_h3, a.sites)) for a in adapters):
        return adapters
    paths = (parse_name(f.site).path for adapter in adapters for f in adapter.sites)
    may_stay = asked == "sources" and all(is_by_heads(adapter.config) for adapter in adapters)
    has_dora = any(f.derived and _is_h3(f) for adapter in adapters for f in adapter.sites)
    if may_stay and not has_dora and not any(map(_SPLIT.fullmatch, paths)):
        return adapters
    return in_order_of(adapters, by_heads=False)


def in_order_of(adapters: Sequence[AdapterRecord], *, by_heads: bool) -> Sequence[AdapterRecord]:
    """The adapters, with their rows in the order of a merge.

    Args:
        adapters: As they are read.
        by_heads: Whether those of the merge are by heads.

    Raises:
        LayoutMismatch: If an adapter has what cannot be put in the other order.
    """
    return [
        adapter if is_by_heads(adapter.config) == by_heads else _reordered(adapter, by_heads)
        for adapter in adapters
    ]


def check_parts_by_heads(adapters: Iterable[AdapterRecord]) -> None:
    """Passes adapters whose modules go into a merge with rows by heads.

    Args:
        adapters: With the names of the merge.

    Raises:
        LayoutMismatch: If one has the parts of a fused projection, whose rows would be one after
            another.
    """
    for adapter in adapters:
        for factors in adapter.sites:
            if factors.blocks and is_fused_h3(factors.site):
                first = factors.blocks[0].factors.a.name
                problem = f"{first} is a part of {factors.site}, which the merge has by heads"
                raise LayoutMismatch(adapter.uri, problem, "Merge all of them again with --refit.")


def _is_h3(factors: SiteFactors) -> bool:
    return factors.d_out % (_PARTS * _WIDTH) == 0 and is_fused_h3(factors.site)


def _reordered(adapter: AdapterRecord, by_heads: bool) -> AdapterRecord:
    mine = [factors for factors in adapter.sites if _is_h3(factors)]
    if not mine:
        return adapter
    of_base = next((factors.site for factors in mine if factors.derived), "")
    names = {factors.site for factors in mine}
    if bad := of_base or next((d.module for d in adapter.differences if d.module in names), ""):
        problem = (
            f"it is of MiniMax-H3, and its rows of {bad} would have to be put in another order, which "
            "is not done for DoRA and for differences of weights and biases"
        )
        raise LayoutMismatch(adapter.uri, problem, _HINT)
    sites = [_turned(each, by_heads) if each.site in names else each for each in adapter.sites]
    note = f"{REORDERED} {mine[0].site} is {_HERE[by_heads]}"
    config = adapter.config if by_heads else {**adapter.config, "adapter": ""}
    return replace(adapter, sites=tuple(sites), notes=(*adapter.notes, note), config=config)


def _turned(factors: SiteFactors, by_heads: bool) -> SiteFactors:
    heads = factors.d_out // (_PARTS * _WIDTH)
    return replace(factors, grid=(_PARTS, heads) if by_heads else (heads, _PARTS))


# What is said of an adapter, by whether the merge has rows by heads.
_HERE: Mapping[bool, str] = {
    True: "DiffSynth's there, which has them by heads",
    False: (
        "by heads in its file, as DiffSynth writes MiniMax-H3 and diffusers reads it. If DiffSynth "
        "trained it on Comfy-Org's checkpoint, its rows are as the others' and diffusers misreads it: "
        "then leave it out with --exclude"
    ),
}
