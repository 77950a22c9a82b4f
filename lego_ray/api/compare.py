"""Compares published merges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lego_ray.arguments import checked
from lego_ray.planning.arguments import Uri, parse_bytes, place_or_none, sources_given
from lego_ray.planning.options import DEFAULT_MEMORY_BUDGET
from lego_ray.reporting.page_file import COMPARISON, target_of, write_page
from lego_ray.sources.headers import Counted, untold
from lego_ray.storage.uri import parse_uri
from lego_ray.verification.comparison_record import MergeComparison
from lego_ray.verification.side_by_side import compare_merges


@checked
def compare(
    merges: Uri | Sequence[Uri],
    *,
    sources: Uri | Sequence[Uri] = (),
    catalog: Uri | None = None,
    html: Uri | None = None,
    base: Uri | None = None,
    memory_budget: int | str = DEFAULT_MEMORY_BUDGET,
    progress: Counted = untold,
) -> MergeComparison:
    """Compares published merges: settings, norms, errors, and the cosines of their updates.

    Each merge's files are held against its manifest first. Cosines are computed from the factors in
    float64, over the modules that both merges have; the record names the modules that only one has.

    Args:
        merges: Where the merges are, two at least.
        sources: The adapters they were made from, as for `verify`: with them the errors are exact, and
            what each merge keeps of each adapter is known. They are read once for each merge.
        catalog: A catalog with the merges, for their errors where the sources are not given.
        html: A path to write an HTML page to; a page that compare wrote before is replaced.
        base: As for `verify`.
        memory_budget: As for `verify`.
        progress: Called with the number of modules that are done, and of those there are.

    Returns:
        How they differ; see `MergeComparison`, which is read like a dictionary too.

    Raises:
        InvalidOption: If there are fewer than two merges, or the budget is too small.
        OutputExists: If the page's path holds another file.
        VerificationFailed: If a file of a merge, or a source, is not what the manifest says.
        ObjectNotFound: If there is no merge at one of the places.
        SourceChanged: If a file changes twice while it is read.
    """
    target = None if html is None else target_of(parse_uri(html), "--html", COMPARISON)
    found = compare_merges(
        [parse_uri(merge) for merge in sources_given(merges)],
        sources=sources_given(sources),
        catalog=place_or_none(catalog),
        base="" if base is None else str(parse_uri(base)),
        memory_budget=parse_bytes(memory_budget),
        progress=progress,
    )
    if target is None:
        return found
    # Imports jinja2, which a comparison without a page needs nothing of.
    from lego_ray.reporting.comparison import comparison_page

    found = replace(found, page=str(target))
    write_page(target, comparison_page(found))
    return found
