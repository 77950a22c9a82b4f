"""MiniMax-H3's fused projection, whose rows DiffSynth orders by heads and all others by parts. Pure.

Shapes and names are the same. What tells them apart is the adapter's name that DiffSynth leaves in its
keys, as diffusers' `_convert_non_diffusers_minimax_h3_lora_to_diffusers` has it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from lego_ray.errors import LayoutMismatch
from lego_ray.formats.module_names import parse_name
from lego_ray.formats.record import AdapterRecord

_QKV = re.compile(r"(?:token_refiner[._])?blocks[._]\d+[._]attn[._]qkv_proj")
_MARK = "default"
# Rows of q, k and v of one head.
_HEAD = 3 * 128

_HINT = "Merge those of DiffSynth separately: leave out the others with --exclude."


def check_rows_of_heads(adapters: Sequence[AdapterRecord], asked: str) -> None:
    """Passes adapters of which none has rows in DiffSynth's order that a merge would lose the mark of.

    Args:
        adapters: As they are read.
        asked: The layout whose names are asked for, or `sources` for theirs.

    Raises:
        LayoutMismatch: If one is DiffSynth's and another is not, or a layout without the mark is asked
            for.
    """
    marked = [adapter for adapter in adapters if adapter.config.get("adapter") == _MARK]
    if not marked or (len(marked) == len(adapters) and asked == "sources"):
        return
    for adapter in marked:
        for factors in adapter.sites:
            if factors.d_out % _HEAD == 0 and _QKV.fullmatch(parse_name(factors.site).path):
                problem = (
                    f"it is DiffSynth's of MiniMax-H3, whose {factors.site} has its rows by heads, "
                    f"which readers know by `.{_MARK}.` in the keys"
                )
                if asked != "sources":
                    hint = "Leave out --layout to keep the names that the adapters have."
                    raise LayoutMismatch(adapter.uri, f"{problem}; {asked} has no such keys", hint)
                other = next(each.uri for each in adapters if each not in marked)
                raise LayoutMismatch(adapter.uri, f"{problem}; {other} has no such keys", _HINT)
