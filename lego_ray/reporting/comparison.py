"""The page of a comparison of merges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lego_ray.planning.recipe import canonical_json
from lego_ray.reporting.axis import natural
from lego_ray.reporting.facts import short_names
from lego_ray.reporting.page_file import COMPARISON
from lego_ray.reporting.rendering import rendered
from lego_ray.verification.comparison_record import ComparedMerge, MergeComparison

Row = tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class ComparisonTables:
    """The tables of the page, each with one column a merge; None where a merge has no value.

    Attributes:
        scores: The score and those of tasks; empty without a scorer.
        settings: Settings that differ, as text or numbers.
        norms: Norm of the update at each module.
        errors: Relative error to the sum at each module; empty if no merge's is known.
        kept: Share kept of each adapter, by its short name; empty without the sources.
        cosines: Cosine with each merge, by merge.
        site_cosines: Lowest cosine of any two merges at each module.
    """

    scores: Sequence[tuple[str, Row]]
    settings: Sequence[tuple[str, tuple[float | str | None, ...]]]
    norms: Sequence[tuple[str, Row]]
    errors: Sequence[tuple[str, Row]]
    kept: Sequence[tuple[str, Row]]
    cosines: Sequence[tuple[str, Row]]
    site_cosines: Sequence[tuple[str, float]]


def comparison_page(record: MergeComparison) -> bytes:
    """Writes the page of a comparison; it needs no network and runs no script.

    Args:
        record: The comparison.

    Returns:
        HTML, UTF-8.
    """
    return rendered("comparison.html", COMPARISON, record=record, tables=_tables(record))


def _tables(record: MergeComparison) -> ComparisonTables:
    merges = record.merges
    norms = {s.site: s.norm for m in merges for s in m.by_site}
    sites = sorted(norms, key=natural)
    by_site = [{s.site: s for s in merge.by_site} for merge in merges]
    own = [
        (site, tuple(each[site].norm if site in each else None for each in by_site))
        for site in sites
    ]
    errors = [
        (
            site,
            tuple(each[site].relative_error_to_sum if site in each else None for each in by_site),
        )
        for site in sites
    ]
    lowest: dict[str, float] = {}
    for pair in record.pairs:
        for site, cosine in pair.site_cosines.items():
            if cosine is not None:
                lowest[site] = min(cosine, lowest.get(site, 1.0))
    return ComparisonTables(
        scores=_scores(merges),
        settings=[(n, tuple(map(_setting, row))) for n, row in record.differences.items()],
        norms=own,
        errors=[row for row in errors if any(value is not None for value in row[1])],
        kept=_kept(merges),
        cosines=_cosines(record),
        site_cosines=sorted(lowest.items(), key=lambda row: (row[1], row[0])),
    )


def _scores(merges: Sequence[ComparedMerge]) -> list[tuple[str, Row]]:
    if all(merge.score is None for merge in merges):
        return []
    tasks = dict.fromkeys(name for merge in merges for name in merge.task_scores or {})
    rows: list[tuple[str, Row]] = [("all", tuple(merge.score for merge in merges))]
    for name in tasks:
        rows.append((name, tuple((merge.task_scores or {}).get(name) for merge in merges)))
    return rows


def _setting(value: Any) -> float | str | None:
    """A setting as a cell shows it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or isinstance(value, int | float | str):
        return value
    return canonical_json(value)


def _cosines(record: MergeComparison) -> list[tuple[str, Row]]:
    labels = [merge.label for merge in record.merges]
    found = {(pair.first, pair.second): pair.cosine for pair in record.pairs}
    return [
        (one, tuple(found.get((one, two), found.get((two, one))) for two in labels))
        for one in labels
    ]


def _kept(merges: Sequence[ComparedMerge]) -> list[tuple[str, Row]]:
    """Share kept of each adapter, the one with the lowest first; those unknown last."""
    shares: dict[str, list[float | None]] = {}
    for number, merge in enumerate(merges):
        for source in merge.kept or ():
            row = shares.setdefault(source.adapter, [None] * len(merges))
            row[number] = source.share_kept
    names = dict(zip(shares, short_names(list(shares)), strict=True))

    def lowest(adapter: str) -> tuple[bool, float, str]:
        known = [share for share in shares[adapter] if share is not None]
        return (not known, min(known, default=0.0), adapter)

    return [(names[adapter], tuple(shares[adapter])) for adapter in sorted(shares, key=lowest)]
