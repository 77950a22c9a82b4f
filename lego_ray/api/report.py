"""Writes a page about a merge."""

from __future__ import annotations

from collections.abc import Sequence

from lego_ray.arguments import checked
from lego_ray.planning.arguments import Uri, parse_bytes, place_or_none, sources_given
from lego_ray.planning.options import DEFAULT_MEMORY_BUDGET
from lego_ray.planning.source_changes import Attempt, warning
from lego_ray.reporting.drawing import check_installed
from lego_ray.reporting.facts import Facts
from lego_ray.reporting.gather import gather
from lego_ray.reporting.page_file import START, target_of, write_page
from lego_ray.reporting.record import ReportRecord
from lego_ray.reporting.write import page
from lego_ray.sources.rescan import rescanning
from lego_ray.storage.uri import parse_uri


@checked
def report(
    merged: Uri,
    *,
    output: Uri,
    catalog: Uri | None = None,
    sources: Uri | Sequence[Uri] | None = None,
    study: Uri | None = None,
    memory_budget: int | str = DEFAULT_MEMORY_BUDGET,
) -> ReportRecord:
    """Writes one HTML page about a merge, which needs no network and runs no script.

    From the manifest: what went in and was refused, and by what it was made. From the catalog: clusters
    by site, MSUs by adapter, error, inertia and norm ratio by site, time and bytes by stage. From the
    sources, read once where they fit: a map of them by similarity, exact errors, norms before and after.
    A section that lacks its data says which flag brings them. The same merge, catalog and sources give
    the same bytes.

    Args:
        merged: Where the merged adapter is.
        output: The page, a path; a page written before is replaced, any other file left as it is.
        catalog: The catalog it was recorded in. With None it is looked for in `catalog` beside the
            merge, and beside the two folders above. If it cannot be read there, a warning says why.
        sources: The adapters it was made from, as for `verify`; () to read none. With None they are read
            where the manifest says that they are, if that is the store that the merge is in. If they
            cannot be read there, a warning says why.
        study: The study of `tune` that the merge is the best of. With None it is looked for beside the
            merge, at its URI with `-study`.
        memory_budget: As for `verify`.

    Returns:
        What was written; see `ReportRecord`, which is read like a dictionary too.

    Raises:
        MissingPackage: If matplotlib is not installed.
        OutputExists: If the output is a file other than such a page.
        InvalidOption: If the output is not a local path, the catalog does not hold the merge, the
            study is of other merges, or the budget is too small.
        VerificationFailed: If sources are given and the merge or a source is not what the manifest says.
        ObjectNotFound: If `merged` has no merged adapter.
        MalformedAdapter: If its manifest was not written by lego-ray.
    """
    check_installed()
    target = target_of(parse_uri(output), "--output", START)
    budget = parse_bytes(memory_budget)
    place, recorded_in = parse_uri(merged), place_or_none(catalog)
    named = None if sources is None else sources_given(sources)
    searched = place_or_none(study)

    def attempted(attempt: Attempt) -> tuple[Facts, list[str]]:
        found, unread = gather(place, recorded_in, named, searched, budget)
        return found, [*map(warning, attempt.changes), *unread]

    facts, warnings = rescanning(attempted)
    data = page(facts)
    write_page(target, data)
    recorded = facts.recorded
    has = {
        "map": facts.measured is not None,
        "lineage": recorded is not None and bool(recorded.shares),
        "clusters": recorded is not None and bool(recorded.clusters),
        "flow": recorded is not None and bool(recorded.reaches),
        "errors": bool(facts.sites),
        "norms": bool(facts.sites),
        "stages": recorded is not None and bool(recorded.merge["stages"]),
        "search": facts.study is not None,
    }
    return ReportRecord(
        merged=facts.place,
        merge_id=facts.manifest["merge_id"],
        output=str(target),
        bytes=len(data),
        sections=has,
        warnings=tuple(warnings),
    )
