"""What readers will make of a merge, as far as a plan shows: before anything is read or solved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from lego_ray.formats.output_layouts import output_layout
from lego_ray.formats.readers.check import check_readers
from lego_ray.formats.record import AdapterRecord
from lego_ray.planning.plan import SitePlan


def reader_warnings(
    written_as: str,
    name: str,
    base_model: str,
    adapters: Sequence[AdapterRecord],
    sites: Sequence[SitePlan],
    *,
    rank: int,
    compact: bool,
) -> tuple[str, ...]:
    """What was changed so that readers load a merge, and which of them do not.

    Args:
        written_as: Its layout.
        name: What it is called, for errors.
        base_model: Its base model.
        adapters: Its sources, the one whose full weights are kept among them.
        sites: Its sites.
        rank: Its rank; 0 while that is open.
        compact: Whether each site is stored at its own rank.

    Raises:
        UnreadableOutput: If the main reader of its layout could not load it as it is meant.
    """
    ranks = {site.site: (site.rank if compact else rank) or 1 for site in sites}
    notes: tuple[str, ...] = ()
    if PurePosixPath(base_model).is_absolute():
        notes = (
            f"the base model's name is the path {base_model}, which is of no use elsewhere; "
            "--base-model gives it another",
        )
    foreseen = output_layout(written_as).foreseen(
        f"merge {name}", base_model, adapters, sites, ranks
    )
    limits = check_readers(foreseen[1]) if foreseen[1] else ()
    return (*notes, *foreseen[0], *limits)
