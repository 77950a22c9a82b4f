"""Merges in kohya's layout."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lego_ray.formats.kohya import CARRIED_FIELDS
from lego_ray.formats.output_layout import (
    Asked,
    OutputLayout,
    PlannedSite,
    agreed,
    shapes_of,
    shapes_of_differences,
)
from lego_ray.formats.readers import kohya
from lego_ray.formats.readers.kohya import ALPHA, DOWN, UP, wants_alphas
from lego_ray.formats.readers.outgoing import Outgoing
from lego_ray.formats.record import AdapterRecord

if TYPE_CHECKING:
    from lego_ray.formats.merged import MergedSite


# Names that are not diffusers' own.
CONVERTED: Mapping[str, str] = {"diffusers": "of models that it has a converter for"}
_READERS = {"ComfyUI": "", "sd-scripts": "", "musubi-tuner": "", **CONVERTED}


class NamedFile(OutputLayout):
    """One file, called like the merge, which diffusers loads by that name."""

    library = "diffusers"

    def weights_name(self, merge: str) -> str:
        """That of the merge."""
        return f"{merge}.safetensors"

    def usage(self, weights_name: str) -> Sequence[str]:
        """By the file's name."""
        call = f'pipeline.load_lora_weights("...", weight_name={json.dumps(weights_name)})'
        return "# `pipeline` is the base model's.", call


class KohyaOutput(NamedFile):
    """Kohya's keys, with alphas where its readers want them."""

    name = "kohya"
    readers = _READERS
    rules = (kohya.findings,)

    def foreseen(
        self,
        where: str,
        base_model: str,
        adapters: Sequence[AdapterRecord],
        sites: Sequence[PlannedSite],
        ranks: Mapping[str, int],
    ) -> tuple[tuple[str, ...], Outgoing | None]:
        """With alphas, where readers want them."""
        shapes = shapes_of(sites, ranks, lambda each: (f"{each.site}{DOWN}", f"{each.site}{UP}"))
        if wants_alphas(ranks, is_mixed=len(set(ranks.values())) > 1):
            shapes |= {f"{name}{ALPHA}": () for name in ranks}
        shapes |= shapes_of_differences(adapters)
        return (), Outgoing(self.name, where, shapes)

    def files(
        self, sites: Sequence[MergedSite], asked: Asked, full_weights: Mapping[str, bytes]
    ) -> dict[str, bytes]:
        """One file."""
        from lego_ray.formats.kohya_writer import encode

        data = encode(
            sites,
            **asked.common(),
            beside=asked.beside(),
            carried={field: agreed(asked.adapters, field) for field in CARRIED_FIELDS},
        )
        return {self.weights_name(asked.name): data}
