"""Several published merges side by side: recipes, norms, errors, and cosines of their updates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations

from lego_ray.errors import InvalidOption
from lego_ray.formats.record import AdapterRecord
from lego_ray.output.damage import EDITED
from lego_ray.planning.recipe import Recipe
from lego_ray.planning.source_changes import Attempt, warning
from lego_ray.sources.confirm import confirm
from lego_ray.sources.headers import Counted
from lego_ray.sources.rescan import rescanning
from lego_ray.storage.places import Place
from lego_ray.verification.against_manifest import (
    CheckedMerge,
    checked_merge,
    compare_with_sources,
)
from lego_ray.verification.between import (
    SiteProducts,
    named_alike,
    products_between,
    sites_of_two_shapes,
)
from lego_ray.verification.comparison_record import (
    ComparedMerge,
    MergeComparison,
    MergePair,
    MergeSite,
)
from lego_ray.verification.figures import errors_of
from lego_ray.verification.record import Errors
from lego_ray.verification.settings import (
    adapters_of,
    differences,
    layout_of,
    preset_of,
    recipe_of,
)


def compare_merges(
    places: Sequence[Place],
    *,
    sources: Sequence[str],
    catalog: Place | None,
    base: str,
    memory_budget: int,
    progress: Counted,
) -> MergeComparison:
    """Compares published merges; see `api.compare` for the promise.

    Args:
        places: Where the merges are.
        sources: Where their adapters are now; empty for nowhere.
        catalog: Where they are recorded, or None.
        base: Where the base model is now; empty for what the manifests say.
        memory_budget: Most bytes to take.
        progress: Called with the number of modules that are done, and of those there are.
    """
    given = [str(place) for place in places]
    if len(set(given)) < max(2, len(given)):
        raise InvalidOption(
            "merges",
            "compare needs two different merges at least, each given once",
            "Give the directories that merge wrote, for example out/rank-8 out/rank-16.",
        )

    def attempted(attempt: Attempt) -> MergeComparison:
        merges = [checked_merge(place, base) for place in places]
        return _compare(attempt, merges, sources, catalog, memory_budget, progress)

    return rescanning(attempted)


def _compare(
    attempt: Attempt,
    merges: Sequence[CheckedMerge],
    sources: Sequence[str],
    catalog: Place | None,
    memory_budget: int,
    progress: Counted,
) -> MergeComparison:
    recipes = [recipe_of(merge) for merge in merges]
    labels = _labels(merges)
    named = named_alike([merge.adapter for merge in merges], layout_of(merges[0]))
    unlike = sites_of_two_shapes(named)
    alike = [
        replace(each, sites=tuple(f for f in each.sites if f.site not in unlike)) for each in named
    ]
    total = len({f.site for each in alike for f in each.sites})
    if sources:
        total += sum(len(merge.adapter.sites) for merge in merges)
    counted = _Counted(progress, total)
    products = products_between(alike, recipes[0], memory_budget, counted)
    counted.before = len(products)
    rows, warnings = [], [*_of_merges(merges), *_of_shapes(unlike)]
    for number, (merge, recipe) in enumerate(zip(merges, recipes, strict=True)):
        norms = {each.site: _norm(each, number) for each in products if number in each.merges}
        names = _own_names(merge.adapter, named[number])
        errors = None
        if sources:
            plan, compared = compare_with_sources(
                merge.manifest, sources, merge.adapter, memory_budget, progress=counted
            )
            errors = errors_of(plan, compared.sites)
            counted.before += len(compared.sites)
        row = _row(merge, recipe, labels[number], norms, names, errors)
        if errors is None and catalog is not None:
            # Imports the catalog's libraries, which a comparison without one needs nothing of.
            from lego_ray.verification.recorded_errors import with_recorded

            row, more = with_recorded(row, catalog, names)
            warnings += more
        rows.append(row)
    confirm(merge.adapter for merge in merges)
    return MergeComparison(
        merges=tuple(rows),
        differences=differences(merges, recipes),
        pairs=tuple(
            _pair(merges, labels, named, products, one, two)
            for one, two in combinations(range(len(merges)), 2)
        ),
        warnings=(*warnings, *map(warning, attempt.changes)),
    )


class _Counted:
    """Progress over the comparisons of a call, one after the other.

    Attributes:
        before: Modules of the comparisons that are done.
    """

    def __init__(self, progress: Counted, total: int) -> None:
        self._progress, self._total, self.before = progress, total, 0

    def __call__(self, done: int, _: int) -> None:
        """Takes how many modules of the present comparison are done."""
        self._progress(self.before + done, self._total)


def _own_names(adapter: AdapterRecord, named: AdapterRecord) -> dict[str, str]:
    """A merge's own name of each module, by the name that all merges have for it."""
    if len(adapter.sites) != len(named.sites):
        return {factors.site: factors.site for factors in named.sites}
    return {n.site: f.site for n, f in zip(named.sites, adapter.sites, strict=True)}


def _labels(merges: Sequence[CheckedMerge]) -> list[str]:
    """What tables call the merges: their names, or their places where two have one name."""
    names = [str(merge.manifest["name"]) for merge in merges]
    return names if len(set(names)) == len(names) else [merge.uri for merge in merges]


def _of_merges(merges: Sequence[CheckedMerge]) -> Iterable[str]:
    """Warnings about the merges themselves."""
    bases = {str(merge.manifest.get("base_model") or "") for merge in merges} - {""}
    if len(bases) > 1:
        yield f"the merges are of different base models: {', '.join(sorted(bases))}"
    for merge in merges:
        if merge.edited:
            yield f"{merge.uri}: {EDITED}"
        if merge.adapter.full_weights or merge.adapter.differences:
            yield f"{merge.uri}: its weights that are not low-rank are not compared"


def _of_shapes(unlike: frozenset[str]) -> Iterable[str]:
    if unlike:
        more = f" and {len(unlike) - 1} more" if len(unlike) > 1 else ""
        yield (
            f"{min(unlike)}{more}: not compared, and in no norm, because the shape differs between "
            "the merges"
        )


def _row(
    merge: CheckedMerge,
    recipe: Recipe,
    label: str,
    norms: Mapping[str, float],
    names: Mapping[str, str],
    errors: Errors | None,
) -> ComparedMerge:
    told = {} if errors is None else {site.site: site for site in errors.sites}
    own = {site: told.get(names[site]) for site in norms}
    by_site = tuple(
        MergeSite(
            site=site,
            norm=norm,
            relative_error_to_sum=None
            if (known := own[site]) is None
            else known.relative_error_to_sum,
            norm_ratio=None if known is None else known.norm_ratio,
        )
        for site, norm in norms.items()
    )
    return ComparedMerge(
        merge=merge.uri,
        merge_id=merge.manifest["merge_id"],
        label=label,
        preset=preset_of(recipe),
        method=recipe.method,
        rank=max(merge.adapter.ranks),
        adapters=len(merge.manifest["sources"]),
        sites=len(merge.adapter.sites),
        norm=math.sqrt(math.fsum(norm * norm for norm in norms.values())),
        figures_from=None if errors is None else "sources",
        relative_error_to_sum=None if errors is None else errors.relative_error_to_sum,
        relative_error_to_mean=None if errors is None else errors.relative_error_to_mean,
        norm_ratio=None if errors is None else errors.norm_ratio,
        kept=None if errors is None else errors.sources,
        by_site=by_site,
    )


def _norm(site: SiteProducts, number: int) -> float:
    return math.sqrt(max(float(site.products[number, number]), 0.0))


def _pair(
    merges: Sequence[CheckedMerge],
    labels: Sequence[str],
    named: Sequence[AdapterRecord],
    products: Sequence[SiteProducts],
    one: int,
    two: int,
) -> MergePair:
    both = [site for site in products if {one, two} <= site.merges]
    here, there = ([f.site for f in named[number].sites] for number in (one, two))
    return MergePair(
        first=labels[one],
        second=labels[two],
        cosine=_cosine(both, one, two),
        sites=len(both),
        only_first=tuple(sorted(set(here) - set(there))),
        only_second=tuple(sorted(set(there) - set(here))),
        adapters=len(adapters_of(merges[one]) & adapters_of(merges[two])),
        site_cosines={site.site: _cosine([site], one, two) for site in both},
    )


def _cosine(sites: Sequence[SiteProducts], one: int, two: int) -> float | None:
    """The cosine of two merges' updates over some modules; None where one of them is zero."""
    inner, first, second = (
        math.fsum(float(site.products[pair]) for site in sites)
        for pair in ((one, two), (one, one), (two, two))
    )
    if first <= 0 or second <= 0:
        return None
    return max(-1.0, min(1.0, inner / math.sqrt(first * second)))
