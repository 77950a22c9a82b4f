"""Parts of modules that a layout has fused: how they are named in a merge, and put together again.

A merge solves each part by itself, since cutting loses nothing. Written in a layout that has the module
whole, its A are the parts' one after another and its B is block-diagonal, so its rank is the sum of
theirs, less the rows of A that parts share. A part is named after the whole and its rows:
`lora_unet_double_blocks_0_img_attn_qkv@0:3072:9216`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lego_ray.formats.site_factors import SiteKind

if TYPE_CHECKING:
    from lego_ray.formats.merged import MergedSite
    from lego_ray.formats.output_layout import PlannedSite

_MARK = re.compile(r"(?P<whole>.+)@(?P<start>\d+):(?P<end>\d+):(?P<height>\d+)")


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a fused module.

    Attributes:
        whole: Name of the module.
        start: The row of its B at which the part begins.
        end: One past its last row.
        height: Rows of the module's B.
    """

    whole: str
    start: int
    end: int
    height: int

    @property
    def site(self) -> str:
        """Its name in a merge."""
        return f"{self.whole}@{self.start}:{self.end}:{self.height}"


def part_named(site: str) -> Part | None:
    """The part that a name is of; None for the name of a whole module.

    Args:
        site: A site of a merge.
    """
    if "@" not in site or not (found := _MARK.fullmatch(site)):
        return None
    return Part(found["whole"], int(found["start"]), int(found["end"]), int(found["height"]))


@dataclass(frozen=True, slots=True)
class FusedSite:
    """A fused module as it will be stored; see `output_layout.PlannedSite`.

    Attributes:
        site: Its name.
        kind: What it is.
        d_out: Rows of its B.
        a_tail: Shape of one row of A.
        b_dims: Axes of its B.
        rank: The largest rank it may have: the sum of its parts'.
        parts: How many of its parts the merge has.
        empty_rows: Rows of B of parts that it has not, which are zero.
    """

    site: str
    kind: SiteKind
    d_out: int
    a_tail: tuple[int, ...]
    b_dims: int
    rank: int
    parts: int
    empty_rows: int


def planned_wholes(
    sites: Sequence[PlannedSite], ranks: Mapping[str, int]
) -> tuple[list[PlannedSite], list[FusedSite]]:
    """The sites of a merge as they will be stored.

    Args:
        sites: Its sites, of which some may be parts of fused modules.
        ranks: Rank of each, or the most it may have.

    Returns:
        Those that are whole modules; and the fused ones that parts are put together to, by name.
    """
    single: list[PlannedSite] = []
    wholes: dict[str, list[tuple[Part, PlannedSite]]] = defaultdict(list)
    for site in sites:
        if part := part_named(site.site):
            wholes[part.whole].append((part, site))
        else:
            single.append(site)
    fused = [
        FusedSite(
            site=name,
            kind=mine[0][1].kind,
            d_out=mine[0][0].height,
            a_tail=mine[0][1].a_tail,
            b_dims=mine[0][1].b_dims,
            rank=sum(ranks[site.site] for _, site in mine),
            parts=len(mine),
            empty_rows=mine[0][0].height - sum(part.end - part.start for part, _ in mine),
        )
        for name, mine in sorted(wholes.items())
    ]
    return single, fused


def stored_count(sites: Iterable[str]) -> int:
    """How many modules a merge is stored as.

    Args:
        sites: Names of its sites.
    """
    return len({part.whole if (part := part_named(site)) else site for site in sites})


def put_together(sites: Sequence[MergedSite]) -> list[MergedSite]:
    """Merged sites as they are stored, parts of fused modules put together.

    The update is that of the parts to the bit.

    Args:
        sites: The sites, in any order.
    """
    out: list[MergedSite] = []
    wholes: dict[str, list[tuple[Part, MergedSite]]] = defaultdict(list)
    for site in sites:
        if part := part_named(site.site):
            wholes[part.whole].append((part, site))
        else:
            out.append(site)
    for name, mine in sorted(wholes.items()):
        out.append(_whole(name, sorted(mine, key=lambda each: each[0].start)))
    return out


def _whole(name: str, parts: Sequence[tuple[Part, MergedSite]]) -> MergedSite:
    """One module of its parts. A row of A that several parts have is stored once, with B of each."""
    first = parts[0][1]
    # By a row's bytes: where it is stored, the first such row that this part has not used yet.
    places: dict[bytes, list[int]] = defaultdict(list)
    rows: list[tuple[int, int]] = []  # the part and row that each stored row of A is of
    put: list[list[int]] = []  # of each part, where its rows are stored
    for number, (_, site) in enumerate(parts):
        used: set[int] = set()
        mine: list[int] = []
        for at, row in enumerate(site.a.contiguous().numpy()):
            known = places[row.tobytes()]
            place = next((each for each in known if each not in used), len(rows))
            if place == len(rows):
                known.append(place)
                rows.append((number, at))
            used.add(place)
            mine.append(place)
        put.append(mine)
    a = first.a.new_empty((len(rows), first.a.shape[1]))
    for place, (number, at) in enumerate(rows):
        a[place] = parts[number][1].a[at]
    b = first.b.new_zeros((parts[0][0].height, len(rows)))
    for (part, site), mine in zip(parts, put, strict=True):
        b[part.start : part.end, mine] = site.b
    return replace(first, site=name, a=a, b=b, is_put_together=True)
