"""Merges in layouts whose files have the names of the sources as they are, dots and all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lego_ray.formats.kohya import CARRIED_FIELDS
from lego_ray.formats.kohya_output import CONVERTED, NamedFile
from lego_ray.formats.output_layout import (
    Asked,
    PlannedSite,
    agreed,
    shapes_of,
    shapes_of_differences,
)
from lego_ray.formats.readers import dotted
from lego_ray.formats.readers.outgoing import Outgoing
from lego_ray.formats.record import AdapterRecord
from lego_ray.formats.suffixes import A_B, XLABS, Suffix

if TYPE_CHECKING:
    from lego_ray.formats.merged import MergedSite


class DottedOutput(NamedFile):
    """One file, called like the merge, with alpha multiplied into the factors.

    Some readers refuse a file with an alpha that they do not expect, and none needs one here.
    """

    rules = (dotted.findings,)

    def __init__(self, name: str, suffix: Suffix, readers: Mapping[str, str]) -> None:
        """A layout of that name.

        Args:
            name: As in `LAYOUTS`.
            suffix: How the keys of factors end.
            readers: As `OutputLayout` has them.
        """
        self.name = name
        self.suffix = suffix
        self.readers = readers

    def foreseen(
        self,
        where: str,
        base_model: str,
        adapters: Sequence[AdapterRecord],
        sites: Sequence[PlannedSite],
        ranks: Mapping[str, int],
    ) -> tuple[tuple[str, ...], Outgoing | None]:
        """A pair of factors for each site."""
        a, b = self._ends(adapters)
        shapes = shapes_of(sites, ranks, lambda each: (f"{each.site}{a}", f"{each.site}{b}"))
        shapes |= shapes_of_differences(adapters)
        return (), Outgoing(self.name, where, shapes)

    def files(
        self, sites: Sequence[MergedSite], asked: Asked, full_weights: Mapping[str, bytes]
    ) -> dict[str, bytes]:
        """One file."""
        from lego_ray.formats.dotted_writer import encode

        data = encode(
            sites,
            **asked.common(),
            ends=self._ends(asked.adapters),
            beside=asked.beside(),
            carried={field: agreed(asked.adapters, field) for field in CARRIED_FIELDS},
        )
        return {self.weights_name(asked.name): data}

    def usage(self, weights_name: str) -> Sequence[str]:
        """By the file's name; ComfyUI needs no call."""
        comment, call = super().usage(weights_name)
        return f"{comment} ComfyUI loads the file as it is.", call

    def _ends(self, adapters: Sequence[AdapterRecord]) -> tuple[str, str]:
        """What follows a site's name: with the name of an adapter where all sources have that.

        diffusers tells DiffSynth's files by it.
        """
        name = agreed(adapters, "adapter") if self.suffix is A_B else None
        infix = f".{name}" if name else ""
        a, b = (end.removesuffix(".weight") for end in (self.suffix.a, self.suffix.b))
        return f"{a}{infix}.weight", f"{b}{infix}.weight"


COMFYUI = DottedOutput("comfyui", A_B, {"ComfyUI": "", **CONVERTED})
XLABS_OUTPUT = DottedOutput("xlabs", XLABS, {"diffusers": "of Flux.1"})
