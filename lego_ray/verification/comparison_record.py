"""The record of `compare`: how several merges differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lego_ray.records import Record, TableRecord, names_of
from lego_ray.verification.record import SourceFigures


@dataclass(frozen=True, kw_only=True, eq=False)
class MergeSite(Record):
    """One module of a merge that is compared.

    Attributes:
        site: Name of the module.
        norm: `||W||`, W the merged update there.
        relative_error_to_sum: `||W - S|| / ||S||`, S the weighted sum of the adapters' updates; None
            where it is not known.
        norm_ratio: `||W|| / ||S||`; None where it is not known.
    """

    site: str
    norm: float
    relative_error_to_sum: float | None
    norm_ratio: float | None


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class ComparedMerge(Record):
    """One of the merges that are compared.

    Attributes:
        merge: URI of the merge.
        merge_id: Its id, hex.
        label: What tables call it: its name, or its URI where two have one name.
        preset: The preset that its recipe equals, or None.
        method: Name of its method.
        rank: The largest rank.
        adapters: How many adapters it was made from.
        sites: How many modules it has.
        norm: `||W||` over all modules.
        figures_from: Where the errors are from: `sources`, `catalog`, or None if they are not known.
        relative_error_to_sum: `||W - S|| / ||S||` over all modules.
        relative_error_to_mean: As in `Errors`; known from the sources alone.
        norm_ratio: `||W|| / ||S||`.
        kept: What it kept of each adapter; None without the sources.
        by_site: Its modules.
        score: Its score, if a scorer was given and gave one; larger is better.
        task_scores: The score of each task, where the scorer knows tasks; None as `score`.
    """

    merge: str
    merge_id: str
    label: str
    preset: str | None
    method: str
    rank: int
    adapters: int
    sites: int
    norm: float
    figures_from: str | None
    relative_error_to_sum: float | None
    relative_error_to_mean: float | None
    norm_ratio: float | None
    kept: tuple[SourceFigures, ...] | None
    by_site: tuple[MergeSite, ...]
    score: float | None = None
    task_scores: Mapping[str, float] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class MergePair(Record):
    """Two of the merges.

    Attributes:
        first: Label of the one.
        second: Label of the other.
        cosine: `<W_1, W_2> / (||W_1|| ||W_2||)` over the modules that both have; None if either
            update is zero there, or there is no such module.
        sites: How many modules both have.
        only_first: Modules that only the first has.
        only_second: Modules that only the second has.
        adapters: How many adapters both were made from.
        site_cosines: The cosine at each module that both have.
    """

    first: str
    second: str
    cosine: float | None
    sites: int
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    adapters: int
    site_cosines: Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class MergeComparison(TableRecord):
    """How several merges differ.

    Attributes:
        merges: The merges, in the order given.
        differences: Settings of recipes that differ, each with its value in every merge; None where a
            merge's method does not have it.
        pairs: All pairs of merges.
        page: Path of the HTML page, or None.
        warnings: What the user should know.
    """

    rows_of = "merges"
    columns = names_of(ComparedMerge)

    merges: tuple[ComparedMerge, ...]
    differences: Mapping[str, Sequence[Any]]
    pairs: tuple[MergePair, ...]
    page: str | None = None
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} of {len(self.merges)} merges: {len(self.differences)} settings "
            f"differ>"
        )
