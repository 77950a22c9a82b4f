"""Methods with all that matters about them settled, under one name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lego_ray.errors import InvalidOption


@dataclass(frozen=True, slots=True)
class Preset:
    """What a name stands for; what it leaves open, such as `n_init`, may be given beside it.

    Attributes:
        method: Name of the method.
        options: Its options that are settled.
        output_scale: As in `Recipe`.
    """

    method: str
    options: Mapping[str, Any]
    output_scale: float | str = 1.0

    def settled(self) -> dict[str, Any]:
        """All that it settles, by name."""
        return {"method": self.method, **self.options, "output_scale": self.output_scale}


PRESETS: Mapping[str, Preset] = {
    # arXiv 2409.16167, in full, so that it stays what it is whatever `lego`'s defaults become.
    "paper": Preset(
        "lego",
        {
            "distance": "euclidean",
            "normalise": False,
            "basis": "raw",
            "balance": False,
            "align_signs": False,
            "parameter_reweight": "inf",
            "output_reweight": "source-rank",
        },
    ),
    # Those that kept most on validation in `jobs/results/quality.md`. Neither gives a lone adapter back
    # as it was.
    "core-space": Preset("core_space", {"inner": "ties"}, "source-norm*2"),
    "iso": Preset("iso", {}, "source-norm*2"),
}
DEFAULT_METHOD = "lego"
# A mean of clusters is short; as long as one source it keeps more, and a lone adapter stays itself
# (`as they come` in `jobs/results/quality.md`).
LEGO_SCALE = "source-norm"


def default_scale(method: str, options: Mapping[str, Any]) -> float | str:
    """Output scale where none is given: 1, but for `lego` unless its own reweighting is given.

    Args:
        method: Name of the method.
        options: Those of its options that were given.
    """
    return LEGO_SCALE if method == "lego" and "output_reweight" not in options else 1.0


def how_to_merge(
    preset: str | None,
    method: str | None,
    options: Mapping[str, Any],
    output_scale: float | str | None,
) -> dict[str, Any]:
    """A recipe's method, options and output scale, of what was given and a preset.

    Args:
        preset: A key of `PRESETS`, or None.
        method: Name of a method; None if none was given.
        options: The method's options that were given.
        output_scale: Factor or rule; None if none was given.

    Returns:
        `method`, `options` and `output_scale`.

    Raises:
        InvalidOption: If there is no such preset, or it settles what was given otherwise.
    """
    if preset is None:
        method = method or DEFAULT_METHOD
        if output_scale is None:
            output_scale = default_scale(method, options)
        return {"method": method, "options": dict(options), "output_scale": output_scale}
    if preset not in PRESETS:
        raise InvalidOption("--preset", f"{preset!r} is not one of {', '.join(PRESETS)}")
    found = PRESETS[preset]
    settled = found.settled()
    asked = {**options, "method": method, "output_scale": output_scale}
    for name, value in asked.items():
        if value is not None and name in settled and value != settled[name]:
            raise InvalidOption(
                f"--{name.replace('_', '-')}",
                f"{value!r} is not what --preset {preset} stands for: {settled[name]!r}",
                "Leave one of the two out.",
            )
    return {
        "method": found.method,
        "options": {**options, **found.options},
        "output_scale": found.output_scale,
    }
