"""Errors of a merge as its catalog has them, for a comparison without the adapters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lego_ray.catalog.history import show
from lego_ray.catalog.opening import catalog_at, has_merge
from lego_ray.storage.places import Place
from lego_ray.verification.comparison_record import ComparedMerge, MergeSite


def with_recorded(
    row: ComparedMerge, place: Place, names: Mapping[str, str]
) -> tuple[ComparedMerge, list[str]]:
    """A merge with the errors that the catalog has of its modules, and warnings.

    Of a module the catalog has e = |W - S| / |S| and q = |W| / |S|. So |S| is |W| / q, and the error
    over all modules is the root of sum (e |S|)^2 over sum |S|^2.

    Args:
        row: The merge, with the norms of its modules.
        place: Where the catalog is.
        names: The merge's own name of each module.
    """
    catalog = catalog_at(place)
    if not has_merge(catalog, row.merge_id):
        return row, [f"{catalog.uri} does not hold {row.label}, so its errors are not known"]
    known = {each["site"]: each for each in show(catalog, row.merge_id).sites.to_pylist()}
    by_site = tuple(_recorded(site, known.get(names[site.site])) for site in row.by_site)
    row = replace(row, figures_from="catalog", by_site=by_site)
    sums, gaps = [], []
    for site in by_site:
        if site.relative_error_to_sum is not None and site.norm_ratio:
            total = (site.norm / site.norm_ratio) ** 2
            sums.append(total)
            gaps.append(site.relative_error_to_sum**2 * total)
    total = math.fsum(sums)
    if len(sums) < row.sites or total <= 0:
        said = f"{row.label}: the catalog does not have what its error over all modules needs"
        return row, [said]
    error = math.sqrt(math.fsum(gaps) / total)
    ratio = row.norm / math.sqrt(total)
    return replace(row, relative_error_to_sum=error, norm_ratio=ratio), []


def _recorded(site: MergeSite, row: Mapping[str, Any] | None) -> MergeSite:
    """A module with what the catalog has of it."""
    if row is None or not all(math.isfinite(row[k]) for k in ("relative_error", "norm_ratio")):
        return site
    return replace(site, relative_error_to_sum=row["relative_error"], norm_ratio=row["norm_ratio"])
