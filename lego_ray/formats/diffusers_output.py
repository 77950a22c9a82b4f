"""Merges in diffusers' layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lego_ray.formats.diffusers_keys import WEIGHTS_NAME
from lego_ray.formats.output_layout import Asked, OutputLayout, PlannedSite, shapes_of_differences
from lego_ray.formats.readers import diffusers
from lego_ray.formats.readers.outgoing import Outgoing
from lego_ray.formats.record import AdapterRecord

if TYPE_CHECKING:
    from lego_ray.formats.merged import MergedSite


_READERS: Mapping[str, str] = {
    "diffusers": "",
    "ComfyUI": "of models whose names in diffusers it knows",
}


class DiffusersOutput(OutputLayout):
    """One file, whose name the library knows."""

    name = "diffusers"
    library = "diffusers"
    readers = _READERS
    has_components = True
    rules = (diffusers.findings,)

    def weights_name(self, merge: str) -> str:
        """The library's own."""
        return WEIGHTS_NAME

    def foreseen(
        self,
        where: str,
        base_model: str,
        adapters: Sequence[AdapterRecord],
        sites: Sequence[PlannedSite],
        ranks: Mapping[str, int],
    ) -> tuple[tuple[str, ...], Outgoing | None]:
        """The differences of weights, which its reader refuses; it loads all else."""
        shapes = shapes_of_differences(adapters)
        return (), Outgoing(self.name, where, shapes) if shapes else None

    def files(
        self, sites: Sequence[MergedSite], asked: Asked, full_weights: Mapping[str, bytes]
    ) -> dict[str, bytes]:
        """One file."""
        from lego_ray.formats.diffusers_writer import encode

        data = encode(
            sites,
            **asked.common(),
        )
        return {WEIGHTS_NAME: data}

    def usage(self, weights_name: str) -> Sequence[str]:
        """Of a directory or a repository."""
        return "# `pipeline` is the base model's.", 'pipeline.load_lora_weights("...")'
