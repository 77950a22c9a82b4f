"""The layouts that merges are written in."""

from __future__ import annotations

from collections.abc import Mapping

from lego_ray.errors import MalformedAdapter
from lego_ray.formats.diffusers_output import DiffusersOutput
from lego_ray.formats.dotted_output import COMFYUI, XLABS_OUTPUT
from lego_ray.formats.kohya_output import KohyaOutput
from lego_ray.formats.output_layout import OutputLayout
from lego_ray.formats.peft_output import PeftOutput

OUTPUTS: Mapping[str, OutputLayout] = {
    layout.name: layout
    for layout in (PeftOutput(), KohyaOutput(), DiffusersOutput(), COMFYUI, XLABS_OUTPUT)
}


def output_layout(name: str, where: str = "") -> OutputLayout:
    """The layout of that name.

    Args:
        name: A name, which may come from anyone's manifest.
        where: The merge, for the error.

    Raises:
        MalformedAdapter: If it is not a layout of this release.
    """
    if name not in OUTPUTS:
        problem = f"its layout is {name[:80]!r}, expected one of {', '.join(OUTPUTS)}"
        raise MalformedAdapter(where, problem)
    return OUTPUTS[name]
