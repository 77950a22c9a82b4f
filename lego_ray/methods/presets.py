"""Methods with all that matters about them settled, under one name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lego_ray.errors import InvalidOption
from lego_ray.methods.names import ADAPTIVE, DEFAULT_METHOD, MethodOptions
from lego_ray.options import keywords_of, renamed


@dataclass(frozen=True, slots=True)
class Preset:
    """What a name stands for; what it leaves open, such as `n_init`, may be given beside it.

    Attributes:
        method: Name of the method.
        options: Its options that are settled.
        output_scale: As in `Recipe`.
        spectrum: As in `Recipe`.
        use: When to use it, for people.
        warning: On which adapters it can lose much, for people; empty for none that is known.
    """

    method: str
    options: Mapping[str, Any]
    output_scale: float | str = 1.0
    spectrum: float | str = 1.0
    use: str = ""
    warning: str = ""

    @property
    def advice(self) -> str:
        """When to use it, and the warning if it has one."""
        return f"{self.use}. Warning: {self.warning}" if self.warning else self.use

    def settled(self) -> dict[str, Any]:
        """All that it settles, by name."""
        after = {"spectrum": self.spectrum, "output_scale": self.output_scale}
        return {"method": self.method, **self.options, **after}


_PAPER = {
    "distance": "euclidean",
    "normalize": False,
    "basis": "raw",
    "balance": False,
    "align_signs": False,
    "parameter_reweight": "inf",
    "output_reweight": "source-rank",
}
_PRESETS: Mapping[str, Preset] = {
    # arXiv 2409.16167, in full, so that it stays what it is whatever `lego`'s defaults become.
    "paper": Preset("lego", _PAPER, use="LoRA-LEGO as published"),
    # Spectrum and norm by how far the adapters differ: of the sum, and after the paper's clusters.
    "adaptive": Preset(
        "svd", {}, ADAPTIVE, ADAPTIVE, "the sum, with norm and spectrum by how far adapters differ"
    ),
    "lego-adaptive": Preset(
        *("lego", _PAPER, f"{ADAPTIVE}:2.0", ADAPTIVE),
        use="the same after the clusters of paper",
    ),
    # What kept most of real tasks without data, on both bases of `jobs/results/quality.md`.
    "core-space": Preset(
        "core_space",
        {"inner": "ties"},
        "source-norm",
        use="as much of the tasks kept as can be, after iso",
        warning="on some bases it gains on some tasks and loses on others; compare it with paper",
    ),
    "iso": Preset(
        *("iso", {}, "source-norm*2"),
        use="as much of the tasks kept as can be",
        warning="the norm is twice that of one adapter, also of one alone or of copies; adapters "
        "trained at too high a rate lose much by it",
    ),
    # The most that a method keeps which gives a lone adapter back and tells where each MSU went.
    "rank-one": Preset(
        *("lego", {"distance": "rank-one", "basis": "svd"}, "source-norm"),
        use="more of the tasks kept, with clusters; up to some thousand MSUs a module",
    ),
}
# What no flag means. `jobs/benchmarks/defaults.py` measures which preset it should be.
DEFAULT_PRESET = "lego-adaptive"
# What no flag meant in earlier releases; a default that is replaced joins them. Merges made by one of
# them stay with it.
FORMER_DEFAULTS = tuple(name for name in ("paper",) if name != DEFAULT_PRESET)
# What no flag means with `updatable`: running sums need a merge that looks at no adapter again.
UPDATABLE_DEFAULT = "paper"
PRESETS: Mapping[str, Preset] = {
    name: replace(each, use=f"{each.use}; what no flag gives") if name == DEFAULT_PRESET else each
    for name, each in _PRESETS.items()
}


def how_to_merge(
    preset: str | None,
    method: str | None,
    options: Mapping[str, Any],
    output_scale: float | str | None,
    spectrum: float | str | None = None,
    *,
    updatable: bool = False,
) -> dict[str, Any]:
    """A recipe's method, options, output scale and spectrum, of what was given and a preset.

    A call that gives a method, one of its options, an output scale or a spectrum gets that, and plain
    values of the others: `lego` with its own defaults, 1 and 1. One that gives none of them gets
    `DEFAULT_PRESET`.

    Args:
        preset: A key of `PRESETS`, or None.
        method: Name of a method; None if none was given.
        options: The method's options that were given.
        output_scale: Factor or rule; None if none was given.
        spectrum: Power or rule; None if none was given.
        updatable: Whether running sums are asked for, which `UPDATABLE_DEFAULT` can give.

    Returns:
        `method`, `options`, `output_scale`, `spectrum`; `by_default`, whether all of it is from
        `DEFAULT_PRESET`; and `notes`, what to tell the user of the choice.

    Raises:
        InvalidOption: If there is no such preset, or it settles what was given otherwise.
    """
    options = renamed(keywords_of(MethodOptions), options)
    given = [method, output_scale, spectrum, *options.values()]
    if preset is None and all(value is None for value in given):
        if updatable and DEFAULT_PRESET != UPDATABLE_DEFAULT:
            return {**how_of(UPDATABLE_DEFAULT), "by_default": False, "notes": (_UPDATABLE,)}
        return {**how_of(DEFAULT_PRESET), "by_default": True, "notes": ()}
    found = _how_given(preset, method, options, output_scale, spectrum)
    return {**found, "by_default": False, "notes": ()}


_UPDATABLE = (
    f"it is merged by the preset {UPDATABLE_DEFAULT}, because it is to be updatable; the default, "
    f"{DEFAULT_PRESET}, keeps no running sums"
)


def how_of(preset: str) -> dict[str, Any]:
    """`method`, `options`, `output_scale` and `spectrum` of a preset.

    Args:
        preset: A key of `PRESETS`.
    """
    found = PRESETS[preset]
    return {
        "method": found.method,
        "options": dict(found.options),
        "output_scale": found.output_scale,
        "spectrum": found.spectrum,
    }


def _how_given(
    preset: str | None,
    method: str | None,
    options: Mapping[str, Any],
    output_scale: float | str | None,
    spectrum: float | str | None,
) -> dict[str, Any]:
    if preset is None:
        return {
            "method": method or DEFAULT_METHOD,
            "options": dict(options),
            "output_scale": 1.0 if output_scale is None else output_scale,
            "spectrum": 1.0 if spectrum is None else spectrum,
        }
    if preset not in PRESETS:
        raise InvalidOption("--preset", f"{preset!r} is not one of {', '.join(PRESETS)}")
    settled = PRESETS[preset].settled()
    asked = {**options, "method": method, "output_scale": output_scale, "spectrum": spectrum}
    for name, value in asked.items():
        if value is not None and name in settled and value != settled[name]:
            raise InvalidOption(
                f"--{name.replace('_', '-')}",
                f"{value!r} contradicts --preset {preset}, which sets {settled[name]!r}",
                "Leave one of the two out.",
            )
    found = how_of(preset)
    return {**found, "options": {**options, **found["options"]}}
