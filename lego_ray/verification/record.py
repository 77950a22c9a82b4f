"""The record of `verify`: whether a merge is whole, and how far it is from its sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lego_ray.records import Record, TableRecord, names_of


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceFigures(Record):
    """What a merge kept of one of its sources, over the sites that the source has.

    Attributes:
        adapter: URI of the source.
        adapter_id: Its content id.
        weight: `w_t`, the factor on its update in the merge.
        sites: How many sites it has.
        norm: `||dW_t||`, of its update without its weight.
        share_kept: `<W, dW_t> / ||dW_t||^2`.
        cosine: `<W, dW_t> / (||W|| ||dW_t||)`.
    """

    adapter: str
    adapter_id: str
    weight: float
    sites: int
    norm: float
    share_kept: float | None
    cosine: float | None


@dataclass(frozen=True, kw_only=True, eq=False)
class SiteFigures(Record):
    """How far one site of a merge is from its sources. Figures as in `Errors`.

    Attributes:
        site: Name of the module.
        relative_error_to_sum: As overall.
        relative_error_to_mean: As overall.
        norm_ratio: As overall.
        least_squares_scale: As overall.
        share_kept: Of each source, in the order of `Errors.sources`; None of one without the site.
        cosine: As `share_kept`.
    """

    site: str
    relative_error_to_sum: float | None
    relative_error_to_mean: float | None
    norm_ratio: float | None
    least_squares_scale: float | None
    share_kept: tuple[float | None, ...]
    cosine: tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Errors(TableRecord):
    """How far a merge is from its sources: W its update, `w_t dW_t` the weighted ones of the sources.

    Norms are Frobenius norms over all sites, exact to float64 rounding. A figure is None where what it
    is relative to is zero.

    Attributes:
        relative_error_to_sum: `||W - S|| / ||S||` with `S = sum_t w_t dW_t`.
        relative_error_to_mean: The same for `S / sum_t w_t`, the sum over the sources that have the
            site; None where a weight is negative.
        norm_ratio: `||W|| / ||S||`.
        least_squares_scale: `<W, S> / ||W||^2`, the factor on W that brings it nearest to S.
        mean_reason: Why there is no error to the mean; None if there is one.
        norm: `||W||`.
        sources: Of each source.
        sites: Of each site.
    """

    rows_of = "sites"
    columns = names_of(SiteFigures)

    relative_error_to_sum: float | None
    relative_error_to_mean: float | None
    norm_ratio: float | None
    least_squares_scale: float | None
    mean_reason: str | None
    norm: float
    sources: tuple[SourceFigures, ...]
    sites: tuple[SiteFigures, ...]

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} to the sum {self.relative_error_to_sum}, to the mean "
            f"{self.relative_error_to_mean}, {len(self.sources)} sources, {len(self.sites)} sites>"
        )


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Verification(TableRecord):
    """What was found of a merged adapter. One that is not what its manifest says raises instead.

    Attributes:
        merged: URI of the merged adapter.
        merge_id: Its id, hex.
        ok: True.
        files: Names of the files whose hashes are those of the manifest.
        rank: The largest rank.
        sites: How many sites it has.
        sources: How many adapters it was made from.
        errors: How far it is from them; None if they were not given.
        warnings: What the user should know.
    """

    rows_of = "errors"
    columns = names_of(SiteFigures)

    def _rows(self) -> Sequence[Mapping[str, Any]]:
        """The sites, each with its errors; none where there were no sources to compare with."""
        return [] if self.errors is None else self.errors._rows()

    merged: str
    merge_id: str
    ok: bool = True
    files: tuple[str, ...]
    rank: int
    sites: int
    sources: int
    errors: Errors | None = None
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        error = "" if self.errors is None else f", error {self.errors.relative_error_to_sum}"
        return (
            f"<{type(self).__name__} ok: {len(self.files)} files, {self.sites} sites of "
            f"{self.sources} sources{error}, {self.merged}>"
        )
