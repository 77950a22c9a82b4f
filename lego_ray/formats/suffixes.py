"""The ends of tensor keys: which factor of a LoRA a tensor is, whichever trainer named it.

A key is a prefix (`module_names.PREFIXES`: the part of the pipeline), the path of a module, and a
suffix. The three vary independently, so each has a table. A trainer that writes another suffix is a
row here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

ALPHA = ".alpha"


@dataclass(frozen=True, slots=True)
class Suffix:
    """How a kind of file ends the keys of a pair of factors.

    Attributes:
        a: What follows the module's path in the key of A; `*` stands for the name of an adapter.
        b: The same of B.
        stem: What the rest of the key must be, as a regular expression.
    """

    a: str
    b: str
    stem: str = r".+"


# The first that fits a key counts.
SUFFIXES: tuple[Suffix, ...] = (
    # kohya, musubi-tuner, LyCORIS, OneTrainer, lightx2v
    Suffix(".lora_down.weight", ".lora_up.weight"),
    # diffusers, PEFT, ai-toolkit, SimpleTuner, diffusion-pipe
    Suffix(".lora_A.weight", ".lora_B.weight"),
    # DiffSynth, and state dicts of PEFT as they are in memory
    Suffix(".lora_A.*.weight", ".lora_B.*.weight"),
    # Mochi's own trainer
    Suffix(".lora_A", ".lora_B"),
    # older diffusers: modules, text encoders
    Suffix(".lora.down.weight", ".lora.up.weight"),
    Suffix(".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
    # XLabs: attention processors of Flux, each with one LoRA or two
    Suffix(".down.weight", ".up.weight", r".+\.processor\.(?:qkv|proj)_lora[12]?"),
    # the oldest diffusers: attention processors
    Suffix("_lora.down.weight", "_lora.up.weight", r".+\.\w+"),
)
DOWN_UP, A_B = SUFFIXES[0], SUFFIXES[1]
XLABS = SUFFIXES[-2]
PROCESSOR = SUFFIXES[-1]


@dataclass(frozen=True, slots=True)
class Factor:
    """A key that names a factor, taken apart.

    Attributes:
        stem: What stands before the suffix.
        half: `A` or `B`.
        suffix: The row of `SUFFIXES`.
        adapter: The adapter's name, in dumps that have one; else empty.
    """

    stem: str
    half: str
    suffix: Suffix
    adapter: str = ""


def _pattern(suffix: Suffix, end: str) -> str:
    return f"(?:{suffix.stem}){re.escape(end)}".replace(r"\*", r"[^.]+")


def any_of(*suffixes: Suffix) -> str:
    """A regular expression of a whole key with one of these suffixes."""
    return "|".join(_pattern(each, end) for each in suffixes for end in (each.a, each.b))


_COMPILED = [
    (
        suffix,
        half,
        end.rpartition("*")[2],
        re.compile(
            rf"(?P<stem>{suffix.stem}){re.escape(end)}".replace(r"\*", r"(?P<adapter>[^.]+)")
        ),
    )
    for suffix in SUFFIXES
    for half, end in (("A", suffix.a), ("B", suffix.b))
]


def parse_suffix(key: str) -> Factor | None:
    """Takes a factor's key apart; None for any other key."""
    if "lora" not in key:
        return None
    for suffix, half, end, pattern in _COMPILED:
        # The end alone decides for most rows, which costs nothing however long a name is.
        if key.endswith(end) and (found := pattern.fullmatch(key)):
            return Factor(found["stem"], half, suffix, found.groupdict().get("adapter") or "")
    return None
