"""How far a merged adapter is from its sources, as figures by site, by source and overall."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lego_ray.numerics.norms import UpdateComparison
from lego_ray.numerics.similarity.per_source import SourceComparison
from lego_ray.planning.plan import Plan
from lego_ray.verification.record import Errors, SiteFigures, SourceFigures

NO_MEAN = "a weight is negative, and a weighted mean has none that are"


@dataclass(frozen=True, slots=True)
class ComparedSite:
    """A site of a merged adapter against its sources.

    Attributes:
        site: The site.
        to_sum: Against the sum of the weighted updates.
        sources: Against each source that has the site, by its number in the plan, unweighted.
        sum_error: `||W - S||_F^2`.
        mean_share: `1 / sum_t w_t`; None where a weight is negative.
        mean_error: `||W - mean_share S||_F^2`; None where a weight is negative.
    """

    site: str
    to_sum: UpdateComparison
    sources: Mapping[int, SourceComparison]
    sum_error: float
    mean_share: float | None
    mean_error: float | None


def errors_of(plan: Plan, sites: Sequence[ComparedSite]) -> Errors:
    """The figures, as `api.verify` describes them.

    With W the merged update and `w_t dW_t` the weighted ones of the sources that have a site, the sum is
    `sum_t w_t dW_t` and the mean `sum_t w_t dW_t / sum_t w_t`; overall they are those of all sites one
    beside the other.

    Args:
        plan: The sources and their weights.
        sites: All sites.
    """
    return Errors(
        **_figures(sites),
        mean_reason=NO_MEAN if None in [site.mean_share for site in sites] else None,
        norm=_root(_merged(sites)),
        sources=tuple(_source(plan, number, sites) for number in range(len(plan.adapters))),
        sites=tuple(_site(plan, site) for site in sites),
    )


def _figures(sites: Sequence[ComparedSite]) -> dict[str, float | None]:
    """The figures over some sites together."""
    found = sum((site.to_sum for site in sites), UpdateComparison(0.0, 0.0, 0.0))
    mean = None
    shares = [site.mean_share for site in sites if site.mean_share is not None]
    if len(shares) == len(sites):
        pairs = zip(shares, sites, strict=True)
        against = sum(share * share * site.to_sum.total for share, site in pairs)
        mean = _relative(sum(site.mean_error or 0.0 for site in sites), against)
    return {
        "relative_error_to_sum": _relative(sum(site.sum_error for site in sites), found.total),
        "relative_error_to_mean": mean,
        "norm_ratio": _finite(found.norm_ratio),
        "least_squares_scale": found.least_squares_scale,
    }


def _source(plan: Plan, number: int, sites: Sequence[ComparedSite]) -> SourceFigures:
    own = [site.sources[number] for site in sites if number in site.sources]
    found = sum(own, SourceComparison(0.0, 0.0))
    adapter = plan.adapters[number]
    return SourceFigures(
        adapter=adapter.uri,
        adapter_id=adapter.adapter_id,
        weight=plan.weights[number],
        sites=len(own),
        norm=_root(found.squared),
        share_kept=found.share_kept,
        cosine=found.cosine(_merged(sites)),
    )


def _site(plan: Plan, site: ComparedSite) -> SiteFigures:
    each = [site.sources.get(number) for number in range(len(plan.adapters))]
    return SiteFigures(
        site=site.site,
        **_figures([site]),
        share_kept=tuple(None if source is None else source.share_kept for source in each),
        cosine=tuple(
            None if source is None else source.cosine(site.to_sum.merged) for source in each
        ),
    )


def _merged(sites: Sequence[ComparedSite]) -> float:
    """`||W||_F^2`."""
    return sum(site.to_sum.merged for site in sites)


def _relative(squared: float, against: float) -> float | None:
    """The root of a ratio; None where it is to nothing, unless both are."""
    if against <= 0:
        return 0.0 if squared == 0 else None
    return _root(squared / against)


def _root(squared: float) -> float:
    return math.sqrt(max(squared, 0.0))


def _finite(value: float) -> float | None:
    """A ratio, or None for one to a sum of zero, which is not a number."""
    return value if math.isfinite(value) else None
