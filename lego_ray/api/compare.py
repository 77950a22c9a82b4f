"""Compares published merges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lego_ray.arguments import checked
from lego_ray.errors import InvalidOption
from lego_ray.planning.arguments import Uri, parse_bytes, place_or_none, sources_given
from lego_ray.planning.options import DEFAULT_MEMORY_BUDGET
from lego_ray.reporting.page_file import COMPARISON, target_of, write_page
from lego_ray.sources.headers import Counted, untold
from lego_ray.storage.uri import parse_uri
from lego_ray.verification.comparison_record import MergeComparison
from lego_ray.verification.side_by_side import compare_merges

# Seconds that a scorer may take for one merge.
SCORE_TIMEOUT = 3600.0


@checked
def compare(
    merges: Uri | Sequence[Uri],
    *,
    sources: Uri | Sequence[Uri] = (),
    catalog: Uri | None = None,
    html: Uri | None = None,
    base: Uri | None = None,
    score: str | None = None,
    score_timeout: float = SCORE_TIMEOUT,
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
        score: A command that scores an adapter, such as `python score.py {adapter}`. It is run for each
            merge without a shell, `{adapter}` being its directory (of one on S3, a copy), and prints a
            line of JSON, `{"score": 0.9, "tasks": {"NAME": 0.9}}`. A merge for which it ends with
            another exit status than 0 has no score, and a warning.
        score_timeout: Most seconds that it may take for one merge.
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
    if score is not None:
        from lego_ray.scoring.command import words_of

        words_of(score)  # before anything is read
    if not score_timeout > 0:
        raise InvalidOption("--score-timeout", f"{score_timeout:g} is not a number above 0")
    target = None if html is None else target_of(parse_uri(html), "--html", COMPARISON)
    places = [parse_uri(merge) for merge in sources_given(merges)]
    found = compare_merges(
        places,
        sources=sources_given(sources),
        catalog=place_or_none(catalog),
        base="" if base is None else str(parse_uri(base)),
        memory_budget=parse_bytes(memory_budget),
        progress=progress,
    )
    if score is not None:
        from lego_ray.verification.scores import with_scores

        found = with_scores(found, places, score, score_timeout)
    if target is None:
        return found
    # Imports jinja2, which a comparison without a page needs nothing of.
    from lego_ray.reporting.comparison import comparison_page

    found = replace(found, page=str(target))
    write_page(target, comparison_page(found))
    return found
