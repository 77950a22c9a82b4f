"""The answer that a page leads with: what each adapter kept, a verdict, and what to try next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from lego_ray.reporting.drawing import clip
from lego_ray.reporting.facts import Facts, Kept
from lego_ray.reporting.layers import kept
from lego_ray.reporting.numbers import count, number, percent
from lego_ray.reporting.similarity import Similarity

# Bars that a page shows; of more adapters, as many of those least kept as of those most kept.
MOST_BARS = 24
# From this share on, a verdict says these words.
_WORDS = (
    (1.1, "has more of each adapter's update than the adapter itself"),
    (0.9, "keeps almost all of each adapter's update"),
    (0.6, "keeps most of each adapter's update"),
    (0.35, "keeps about half of each adapter's update"),
    (0.1, "keeps a small part of each adapter's update"),
    (float("-inf"), "keeps almost nothing of each adapter's update"),
)
# A factor towards the sum that is further from 1 than this is worth a try. So is a higher rank from
# this error on.
_FAR_SCALE, _FAR_ERROR = 1.25, 0.3


@dataclass(frozen=True, slots=True)
class Bar:
    """What one adapter kept, as a bar.

    Attributes:
        name: The adapter.
        share: Of its update, what is in the merged one.
        start: Where the bar starts, in percent of the width there is.
        width: How wide it is, in the same.
    """

    name: str
    share: float
    start: float
    width: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What a page leads with.

    Attributes:
        verdict: In sentences.
        bars: Of each adapter, the one least kept first; None for a gap where others are left out.
        whole: Where the whole of an adapter is on the bars, in percent of the width.
        left_out: How many adapters have no bar.
        advice: What to try next, a sentence or two each.
    """

    verdict: str
    bars: Sequence[Bar | None]
    whole: float
    left_out: int
    advice: Sequence[str]


def answer(facts: Facts, similarity: Similarity | None) -> Answer | None:
    """What a page leads with, as far as it is known.

    Args:
        facts: What is known of the merge.
        similarity: How alike its adapters are.

    Returns:
        None if neither sources nor a catalog say anything.
    """
    known = [(each, each.share) for each in kept(facts) if each.share is not None]
    if not known:
        return _by_errors(facts)
    shares = [share for _, share in known]
    middle, least, most = median(shares), known[0], known[-1]
    words = next(words for bound, words in _WORDS if middle >= bound)
    said = [f"The merge {words}: {percent(middle)} in the median"]
    if len(known) > 1 and least[1] < most[1]:
        said[0] += f", from {_of(*least)} to {_of(*most)}"
    said[0] += "."
    few = sum(share < 0.5 * middle for share in shares)
    if few:
        said.append(f"{count(few, 'adapter')} kept less than half of the median.")
    low, high = min(0.0, *shares), max(1.0, *shares)
    bars = [_bar(each.name, share, low, high) for each, share in known]
    half = MOST_BARS // 2
    left_out = max(0, len(bars) - MOST_BARS)
    shown: list[Bar | None] = [*bars]
    if left_out:
        shown = [*bars[:half], None, *bars[-half:]]
    whole = 100 * (1 - low) / (high - low)
    advice = _advice(facts, similarity, known[0] if few else None)
    return Answer(" ".join(said), shown, whole, left_out, advice)


def _of(each: Kept, share: float) -> str:
    return f"{percent(share)} ({clip(each.name)})"


def _bar(name: str, share: float, low: float, high: float) -> Bar:
    start = (min(share, 0.0) - low) / (high - low)
    return Bar(name, share, 100 * start, 100 * abs(share) / (high - low))


def _by_errors(facts: Facts) -> Answer | None:
    errors = [site.error for site in facts.sites if site.error is not None]
    if not errors:
        return None
    verdict = (
        f"The merged update is {percent(median(errors))} of the norm of the sum away from the sum of "
        "its adapters' updates, as the median over modules. How much of each adapter it keeps is only "
        "known if its sources are read: give --sources."
    )
    return Answer(verdict, (), 100.0, 0, ())


def _advice(
    facts: Facts, similarity: Similarity | None, lost: tuple[Kept, float] | None
) -> list[str]:
    assert facts.measured is not None
    found = []
    errors = facts.measured.errors
    scale = errors.get("least_squares_scale")
    if scale and scale > 0 and max(scale, 1 / scale) > _FAR_SCALE:
        found.append(
            f"Multiplied by {number(float(scale))}, the merged update would be nearest to the sum of "
            "the updates; --output-scale sum-fit does that module by module. Compare two or three norms "
            "on your tasks, such as --output-scale 'source-norm*2'."
        )
    if similarity and len(similarity.groups) > 1:
        found.append(
            f"The adapters fall into {len(similarity.groups)} groups of alike ones. Merge each group by "
            "itself: groups: auto in a recipe file of lego-ray build."
        )
    if lost:
        found.append(
            f"To keep more of {clip(lost[0].name)}, give it a larger weight with --weight, or leave it "
            "out with --exclude and serve it alone."
        )
    error = errors.get("relative_error_to_sum")
    has_rank = facts.manifest["recipe"].get("rank") is not None
    if has_rank and error is not None and error > _FAR_ERROR:
        found.append(
            "A higher --rank comes nearer to the sum of the updates; lego-ray plan --errors shows how "
            "much nearer, rank by rank."
        )
    return found
