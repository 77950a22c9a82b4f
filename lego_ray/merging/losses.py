"""Notes on how near plain pairs are that were computed with the base model."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from lego_ray.formats.record import AdapterRecord
from lego_ray.numerics.decompositions.with_base import relative_error
from lego_ray.tasks.values import Loss

Adapter = TypeVar("Adapter", bound=AdapterRecord)


def with_losses(adapters: Sequence[Adapter], losses: Iterable[Loss]) -> tuple[Adapter, ...]:
    """Adapters, each with a note on the error of its pairs where these are not the same update.

    Args:
        adapters: A plan's, in its order.
        losses: What its tasks found, in any order; a site's may be there twice.
    """
    found: dict[int, dict[str, tuple[float, float]]] = defaultdict(dict)
    for number, site, lost, total in losses:
        found[number][site] = (lost, total)
    notes = {number: _note(sites) for number, sites in found.items()}
    return tuple(
        replace(adapter, notes=(*adapter.notes, notes[number])) if notes.get(number) else adapter
        for number, adapter in enumerate(adapters)
    )


def _note(sites: dict[str, tuple[float, float]]) -> str:
    """The note of one adapter, without its full stop; empty if nothing is lost."""
    lost = math.fsum(lost for lost, _ in sites.values())
    if lost == 0:
        return ""
    total = math.fsum(total for _, total in sites.values())
    worst = max(sorted(sites), key=lambda site: relative_error(*sites[site]))
    return (
        f"its plain LoRA has a relative error of {relative_error(lost, total):.3g} against what the "
        f"adapter does to the base model, over all modules that are computed with it; the largest is "
        f"{relative_error(*sites[worst]):.3g}, at {worst}"
    )
