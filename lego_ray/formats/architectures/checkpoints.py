"""Names in a checkpoint in one file: a denoiser's by the model's authors, and of parts beside it."""

from __future__ import annotations

from collections.abc import Iterable

from lego_ray.formats.architectures import ARCHITECTURES
from lego_ray.formats.module_names import DENOISER, parse_name

# Text encoders in the files of Stable Diffusion 1 and SDXL, and what their names begin with elsewhere.
# OpenCLIP's, which these and Stable Diffusion 2 have too, has its projections fused under other names.
_ENCODERS = ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer.")
_ENCODER = "text_encoder."


def is_checkpoint(tensors: Iterable[str]) -> bool:
    """Whether a file holds a denoiser of a model in the tables.

    Args:
        tensors: Names of its tensors.
    """
    names = (
        parse_name(name.removesuffix(".weight")) for name in tensors if name.endswith(".weight")
    )
    paths = (name.path for name in names if name.component == DENOISER)
    return any(
        (reading := each.read(path)) is not None and reading.row.original.count("#")
        for path in paths
        for each in ARCHITECTURES
    )


def module_in_checkpoint(path: str) -> tuple[str, str]:
    """What the name of a module in a checkpoint has in common with other names of that module.

    Args:
        path: The module's, as the checkpoint has it.
    """
    for prefix in _ENCODERS:
        if path.startswith(prefix):
            path = f"{_ENCODER}{path.removeprefix(prefix)}"
    return parse_name(path).module
