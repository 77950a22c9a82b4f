"""Which merges a search may try, and one of them as a frozen value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from lego_ray.errors import InvalidOption
from lego_ray.methods.names import MethodOptions
from lego_ray.methods.presets import PRESETS
from lego_ray.methods.scaling import parts
from lego_ray.options import keywords_of

FLAG = "--space"
KEYS = ("preset", "scale", "spectrum", "weights", "rank")
# Of the presets, those whose cost grows no faster than the adapters: rank-one clusters of many adapters
# take the square of their ranks. In the order that they are tried first.
DEFAULT_PRESETS = ("adaptive", "paper", "lego-adaptive", "iso", "core-space")
_DIGITS = 4


class Range(NamedTuple):
    """Numbers from `low` to `high`, both included."""

    low: float
    high: float

    @property
    def is_open(self) -> bool:
        """Whether there is more than one number in it."""
        return self.low < self.high

    def at(self, share: float, *, log: bool) -> float:
        """The number at a share of it, 0 to 1, of its logarithms if `log`; rounded for people."""
        share = min(1.0, max(0.0, share))
        if log:
            low, high = math.log(self.low), math.log(self.high)
            return self.held(rounded(math.exp(low + share * (high - low))))
        return self.held(rounded(self.low + share * (self.high - self.low)))

    def share_of(self, number: float, *, log: bool) -> float:
        """The share at which a number of it is; 0.5 of a range with one number."""
        if not self.is_open:
            return 0.5
        low, high = (math.log(self.low), math.log(self.high)) if log else self
        at = math.log(number) if log else number
        return min(1.0, max(0.0, (at - low) / (high - low)))

    def held(self, number: float) -> float:
        """The number of it that is nearest to one."""
        return min(self.high, max(self.low, number))


@dataclass(frozen=True, slots=True)
class Choice:
    """What one trial merges by.

    Attributes:
        preset: Name of the preset; None if the method is not searched.
        scale: Factor on the output scale that the preset or the method has.
        spectrum: Power of the singular values; None for what the preset has.
        weights: Weight of adapters by URI; 1 for those not named.
        rank: Merged rank.
    """

    preset: str | None
    rank: int
    scale: float = 1.0
    spectrum: float | None = None
    weights: Mapping[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The choice as a study keeps it."""
        return {
            "preset": self.preset,
            "rank": self.rank,
            "scale": self.scale,
            "spectrum": self.spectrum,
            "weights": dict(self.weights),
        }

    def options(self, fixed: Mapping[str, Any]) -> dict[str, Any]:
        """The options of the merge, as `lego_ray.merge` accepts them.

        Args:
            fixed: Those that are not searched.
        """
        asked = {**fixed, "rank": self.rank}
        scale: float | str = 1.0
        if self.preset is not None:
            asked.pop("preset", None)
            settled = PRESETS[self.preset].settled()
            scale = settled.pop("output_scale")
            asked = {**settled, **asked}
        if "output_scale" not in fixed:
            asked["output_scale"] = scaled_by(scale, self.scale)
        if self.spectrum is not None:
            asked["spectrum"] = self.spectrum
        if self.weights:
            asked["weights"] = dict(self.weights)
        return asked


@dataclass(frozen=True, slots=True)
class Space:
    """Which merges are tried.

    Attributes:
        presets: Names of presets; empty if the method is given.
        scale: Factors on the output scale.
        spectrum: Powers of the singular values, tried beside what the preset has; None for that alone.
        weights: Weights of each adapter.
        ranks: Merged ranks.
        adapters: URIs of the adapters.
    """

    presets: tuple[str, ...]
    scale: Range
    spectrum: Range | None
    weights: Range
    ranks: tuple[int, ...]
    adapters: tuple[str, ...] = ()

    @property
    def is_weighted(self) -> bool:
        """Whether the adapters' weights are searched: of a lone one, its scale is its weight."""
        return self.weights.is_open and len(self.adapters) > 1

    def first(self, preset: str | None) -> Choice:
        """A preset as it is, as far as the space has it."""
        weight = self.weights.held(1.0)
        weights = {} if weight == 1 else dict.fromkeys(self.adapters, weight)
        fixed = self.spectrum.low if self.spectrum and not self.spectrum.is_open else None
        return Choice(preset, self.ranks[0], self.scale.held(1.0), fixed, weights)

    def of(self, adapters: Sequence[str]) -> Space:
        """The space for some adapters, by their URIs."""
        return replace(self, adapters=tuple(adapters))

    def as_json(self) -> dict[str, Any]:
        """What identifies it."""
        return {
            "presets": list(self.presets),
            "scale": list(self.scale),
            "spectrum": list(self.spectrum) if self.spectrum else None,
            "weights": list(self.weights),
            "ranks": list(self.ranks),
        }


def space_of(given: Sequence[str], fixed: Mapping[str, Any]) -> Space:
    """The space that `--space` and the options of the merge leave.

    Args:
        given: Each `KEY=VALUES`; see `KEYS`.
        fixed: Options of the merge that were given.

    Raises:
        InvalidOption: If a key or a value does not exist, or what is to be searched is also given.
    """
    asked = _asked(given)
    of_method = [n for n in keywords_of(MethodOptions) if fixed.get(n) is not None]
    how = [n for n in ("preset", "method") if fixed.get(n) is not None]
    if of_method and not how:
        raise InvalidOption(
            keywords_of(MethodOptions)[of_method[0]].flag,
            "it is an option of some methods, and which method is best is searched",
            "Give --preset or --method with it.",
        )
    taken = {
        "preset": how,
        "scale": [n for n in ("output_scale",) if fixed.get(n) is not None],
        "spectrum": [n for n in ("spectrum",) if fixed.get(n) is not None],
        "weights": [n for n in ("weights",) if fixed.get(n)],
        "rank": [n for n in ("rank",) if fixed.get(n) is not None],
    }
    for key, names in taken.items():
        if names and key in asked:
            flag = "--weight" if names[0] == "weights" else f"--{names[0].replace('_', '-')}"
            raise InvalidOption(
                FLAG, f"{key} is searched, and {flag} fixes it", "Give one of them."
            )
    presets: tuple[str, ...] = () if how else DEFAULT_PRESETS
    if fixed.get("preset") is not None:
        presets = (_preset(fixed["preset"]),)
    if "preset" in asked:
        presets = tuple(dict.fromkeys(map(_preset, asked["preset"].split(","))))
    spectrum: Range | None = Range(0.0, 1.0)
    if taken["spectrum"]:
        spectrum = None
    elif "spectrum" in asked:
        spectrum = None if asked["spectrum"] == "preset" else _range("spectrum", asked)
    scale, weights = Range(0.25, 4.0), Range(0.25, 4.0)
    scale = Range(1.0, 1.0) if taken["scale"] else _range("scale", asked, scale, above=0.0)
    weights = Range(1.0, 1.0) if taken["weights"] else _range("weights", asked, weights, above=0.0)
    return Space(presets, scale, spectrum, weights, _ranks(asked, fixed))


def scaled_by(scale: float | str, factor: float) -> float | str:
    """An output scale times a factor: of a rule, the rule with the factor after it."""
    if factor == 1:
        return scale
    if not isinstance(scale, str):
        return rounded(scale * factor)
    rule, _, _ = scale.partition("*")
    return f"{rule}*{rounded(parts(scale).factor * factor)!r}"


def rounded(number: float) -> float:
    """A number with four digits, so that a recipe can be read."""
    return float(f"{number:.{_DIGITS}g}")


def _asked(given: Sequence[str]) -> dict[str, str]:
    asked: dict[str, str] = {}
    for text in given:
        key, equals, values = text.partition("=")
        if key not in KEYS or not equals or not values:
            listed = ", ".join(KEYS)
            raise InvalidOption(FLAG, f"{text!r} is not KEY=VALUES with one of {listed}")
        if asked.setdefault(key, values) != values:
            raise InvalidOption(FLAG, f"{key} is given {asked[key]!r} and {values!r}")
    return asked


def _preset(name: str) -> str:
    if name not in PRESETS:
        raise InvalidOption(FLAG, f"{name!r} is not one of {', '.join(PRESETS)}")
    return name


def _range(
    key: str, asked: Mapping[str, str], default: Range | None = None, above: float | None = None
) -> Range:
    """A range such as `0.5..2`, or the single number of `2`."""
    if key not in asked:
        assert default is not None
        return default
    low, dots, high = asked[key].partition("..")
    try:
        found = Range(float(low), float(high if dots else low))
    except ValueError:
        found = Range(math.nan, math.nan)
    if not (math.isfinite(found.low) and math.isfinite(found.high) and found.low <= found.high):
        raise InvalidOption(FLAG, f"{key}={asked[key]} is not a number or LOW..HIGH")
    if above is not None and found.low <= above:
        raise InvalidOption(FLAG, f"{key}={asked[key]} is not above {above:g}")
    return found


def _ranks(asked: Mapping[str, str], fixed: Mapping[str, Any]) -> tuple[int, ...]:
    if "rank" not in asked:
        rank = fixed.get("rank")
        if not isinstance(rank, int):
            raise InvalidOption(
                "--rank",
                "a search needs the rank as a number" if rank is None else f"{rank!r} is no number",
                "Give --rank K, or --space rank=8,16.",
            )
        return (rank,)
    words = asked["rank"].split(",")
    if not all(word.isdecimal() and int(word) for word in words):
        raise InvalidOption(FLAG, f"rank={asked['rank']} is not a list of ranks, such as 8,16")
    return tuple(dict.fromkeys(map(int, words)))
