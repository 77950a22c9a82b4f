"""Differences of whole weights, biases and norms: tensors beside the factors, added as they are.

Trainers of image models write them as `.diff` and `.diff_b`, LyCORIS those of norms as `.w_norm` and
`.b_norm`. ComfyUI and LyCORIS multiply them by the strength of the LoRA and by nothing else: alpha does
not count. PEFT's biases of B (`lora_bias`) are such differences too, times the scaling of their module.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from lego_ray.formats.record import AdapterRecord
    from lego_ray.formats.site_factors import TensorSpan

Part = Literal["weight", "bias", "modulation"]

NORM_WEIGHT, NORM_BIAS = ".w_norm", ".b_norm"
LORA_BIAS = ".lora_B.bias"
# What a key ends with, and what of its module that is the difference of; the usual end of each first.
ENDS: Mapping[str, Part] = {
    ".diff": "weight",
    ".diff_b": "bias",
    ".diff_m": "modulation",
    NORM_WEIGHT: "weight",
    NORM_BIAS: "bias",
}
_USUAL: Mapping[Part, str] = {"weight": ".diff", "bias": ".diff_b", "modulation": ".diff_m"}


@dataclass(frozen=True, slots=True)
class Difference:
    """A tensor that is added to a weight or bias of the base model.

    Attributes:
        module: Path of the module, as sites are named.
        end: What the tensor's key ends with: one of `ENDS`, or `LORA_BIAS`.
        span: The tensor.
        scaling: Factor on it.
        rows: First row and one past the last of those that are the module's, of a fused module that the
            merge has in parts; None for all.
        is_swapped: Whether the halves of the rows change places in the merge.
    """

    module: str
    end: str
    span: TensorSpan
    scaling: float = 1.0
    rows: tuple[int, int] | None = None
    is_swapped: bool = False

    @property
    def part(self) -> Part:
        """What of its module it is the difference of."""
        return ENDS.get(self.end, "bias")

    @property
    def key(self) -> str:
        """What all differences of the same weight have in common, whatever their files call it."""
        return f"{self.module}{_USUAL[self.part]}"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what is added."""
        if self.rows is None:
            return self.span.shape
        return (self.rows[1] - self.rows[0], *self.span.shape[1:])

    @property
    def n_values(self) -> int:
        """Number of values that are added."""
        size = 1
        for n in self.shape:
            size *= n
        return size


def split_end(key: str) -> tuple[str, str] | None:
    """The path and the end of a difference's key; None for any other key.

    Args:
        key: A tensor's.
    """
    stem, dot, end = key.rpartition(".")
    return (stem, f".{end}") if stem and dot and f".{end}" in ENDS else None


def differences_of(adapters: Iterable[AdapterRecord]) -> dict[str, list[Difference]]:
    """The differences of a merge's sources, by what they have in common, sorted.

    Args:
        adapters: The sources, each module under its name in the merge.
    """
    found: dict[str, list[Difference]] = defaultdict(list)
    for adapter in adapters:
        for each in adapter.differences:
            found[each.key].append(each)
    return dict(sorted(found.items()))


def stored_keys(found: Mapping[str, Sequence[Difference]]) -> dict[str, str]:
    """What differences are called in a single file, by their common key.

    Those of a norm keep LyCORIS' names where all files have them. ComfyUI and LyCORIS read `.b_norm`
    only beside `.w_norm`, so without that it is written as `.diff_b`.

    Args:
        found: Differences by common key.
    """
    norms = {
        each[0].module
        for each in found.values()
        if each[0].part == "weight" and all(d.end == NORM_WEIGHT for d in each)
    }
    names: dict[str, str] = {}
    for key, same in found.items():
        first = same[0]
        if first.module in norms and first.part != "modulation":
            names[key] = f"{first.module}{NORM_WEIGHT if first.part == 'weight' else NORM_BIAS}"
        else:
            names[key] = key
    return names
