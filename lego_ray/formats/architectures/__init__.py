"""Models whose modules have two sets of names, as tables: one architecture a file.

To add one, write its rows and name it here. A name that is in no row is never guessed at: adapters that
have such a name and are in two namings do not merge.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lego_ray.formats.architectures.anima import ANIMA
from lego_ray.formats.architectures.flux import FLUX, FLUX2
from lego_ray.formats.architectures.hidream import HIDREAM
from lego_ray.formats.architectures.ideogram import IDEOGRAM4
from lego_ray.formats.architectures.krea import KREA2
from lego_ray.formats.architectures.ltx import LTX
from lego_ray.formats.architectures.lumina import LUMINA2, Z_IMAGE
from lego_ray.formats.architectures.minimax import MINIMAX_H3
from lego_ray.formats.architectures.qwen import QWEN_IMAGE
from lego_ray.formats.architectures.row import Reading, Row, Side
from lego_ray.formats.architectures.rows import Architecture
from lego_ray.formats.architectures.sd3 import SD3
from lego_ray.formats.architectures.unet import SD, SDXL
from lego_ray.formats.architectures.wan import WAN

ARCHITECTURES: tuple[Architecture, ...] = (
    *(SDXL, SD, FLUX, FLUX2, SD3, WAN, Z_IMAGE, LUMINA2, ANIMA, QWEN_IMAGE, LTX, HIDREAM),
    *(MINIMAX_H3, KREA2, IDEOGRAM4),
)


def by_base(
    architectures: Sequence[Architecture], base_model: str, paths: Iterable[str] = ()
) -> Sequence[Architecture]:
    """Those of several models that may be an adapter's which its base model's name says; else all.

    A name that says another model rules them out, if that model's table has some of the modules: what it
    has no row for is not known then, whichever other table has one.

    Args:
        architectures: Models whose tables have all modules of the adapter.
        base_model: As adapters or the user have it; may be empty.
        paths: The adapter's modules of the denoiser; none if no name is to rule a table out.
    """
    named = [each for each in ARCHITECTURES if each.is_named(base_model)]
    if found := [each for each in architectures if each in named]:
        return found
    modules = list(paths)
    if any(each.read(path) is not None for each in named for path in modules):
        return ()
    return architectures


__all__ = ["ARCHITECTURES", "Architecture", "Reading", "Row", "Side", "by_base"]
