"""What readers will make of a merge, as far as a plan shows: before anything is read or solved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from lego_ray.formats.fused import FusedSite, planned_wholes
from lego_ray.formats.output_layouts import output_layout
from lego_ray.formats.readers.check import check_readers
from lego_ray.formats.record import AdapterRecord
from lego_ray.planning.task_plans import SitePlan


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
    stored, fused = planned_wholes(sites, ranks)
    ranks = {site.site: ranks[site.site] for site in stored} | {f.site: f.rank for f in fused}
    foreseen = output_layout(written_as).foreseen(
        f"merge {name}", base_model, adapters, [*stored, *fused], ranks
    )
    limits = check_readers(foreseen[1]) if foreseen[1] else ()
    return (*notes, *_put_together(fused, is_open=not rank), *foreseen[0], *limits)


def _put_together(fused: Sequence[FusedSite], *, is_open: bool) -> Iterator[str]:
    """The note on modules that are stored whole and merged in parts."""
    if not fused:
        return
    largest = max(fused, key=lambda site: site.rank)
    up_to = "" if is_open else f", {largest.rank} at most for {largest.site}"
    how = f"at the sum of the parts' ranks{up_to}, less where parts share rows of A"
    first, more = fused[0].site, len(fused) - 1
    which = f"{first} and {more} more are" if more else f"{first} is"
    yield f"{which} merged in parts and stored whole, {how}"
    if empty := [site for site in fused if site.empty_rows]:
        example, more = empty[0], len(empty) - 1
        which = f"{example.site} and {more} more" if more else example.site
        yield (
            f"no adapter has all parts of {which}, so rows of B are zero there: {example.empty_rows} "
            f"of the {example.d_out} of {example.site}"
        )
