"""Gathers what is known of a merge, for its page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lego_ray.catalog.ancestry import shares
from lego_ray.catalog.flow import flow
from lego_ray.catalog.history import show
from lego_ray.catalog.opening import catalog_at, has_merge
from lego_ray.errors import InvalidOption, LegoRayError, SourceChanged
from lego_ray.output.read import read_manifest
from lego_ray.planning.plan import Plan
from lego_ray.reporting.axis import natural
from lego_ray.reporting.facts import (
    Alike,
    Cluster,
    Facts,
    Kept,
    Measured,
    Reach,
    Recorded,
    Share,
    SiteFacts,
    short_names,
)
from lego_ray.reporting.own_sources import catalogs_beside, own_sources
from lego_ray.reporting.study import study_or_warning
from lego_ray.storage.places import Place
from lego_ray.verification.against_manifest import compare_with_sources, reload_merged
from lego_ray.verification.compare import Compared, Watch
from lego_ray.verification.figures import ComparedSite, errors_of
from lego_ray.verification.similarity import SKETCH_BYTES, SimilarityWatch


def gather(
    merged: Place,
    catalog: Place | None,
    sources: Sequence[str] | None,
    study: Place | None,
    memory_budget: int,
) -> tuple[Facts, list[str]]:
    """What is known of a merge.

    Args:
        merged: Where it is.
        catalog: The catalog it was recorded in; None for the one beside it, if one holds it.
        sources: Where its adapters are; () to read none; None for where the manifest says that they
            are, if they can be read there.
        study: The study of `tune` that it is the best of; None for the place beside it.
        memory_budget: Bytes that reading the adapters may take.

    Returns:
        It, and sentences on what was looked for unasked and could not be read.

    Raises:
        SourceChanged: If a file changes while it is read.
        LegoRayError: As for `report`.
    """
    uri = str(merged)
    manifest, _ = read_manifest(merged.open())
    searched, unread_study = study_or_warning(merged, manifest["merge_id"], study)
    named = short_names([source["uri"] for source in manifest["sources"]])
    by_id: dict[str, str] = {}
    for source, name in zip(manifest["sources"], named, strict=True):
        by_id.setdefault(source["adapter_id"], name)
    sites: dict[str, SiteFacts] = {}
    recorded, found, unrecorded = _looked_up(merged, catalog, manifest, by_id)
    sites |= found
    measured = None
    found_by, unread = _compare(merged, manifest, sources, memory_budget)
    if found_by is not None:
        plan, compared, alike = found_by
        errors = errors_of(plan, compared.sites)
        names = [by_id[adapter.adapter_id] for adapter in plan.adapters]
        kept = [
            Kept(name, s["norm"], s["share_kept"], s["cosine"])
            for name, s in zip(names, errors["sources"], strict=True)
        ]
        measured = Measured(errors, kept, Alike(names, alike.cosines(), alike.exact))
        for site, told in zip(compared.sites, errors["sites"], strict=True):
            sites[site.site] = _measured(sites.get(site.site, SiteFacts(site.site)), site, told)
    in_order = [sites[site] for site in sorted(sites, key=natural)]
    facts = Facts(uri, manifest, named, in_order, recorded, measured, searched)
    return facts, [*unrecorded, *unread, *unread_study]


def _looked_up(
    merged: Place, catalog: Place | None, manifest: dict[str, Any], names: dict[str, str]
) -> tuple[Recorded | None, dict[str, SiteFacts], list[str]]:
    """Reads the catalog that was given, or one beside the merge that holds it."""
    if catalog is not None:
        return *_recorded(catalog, manifest, names), []
    unread: list[str] = []
    for place in catalogs_beside(merged):
        try:
            if has_merge(catalog_at(place), manifest["merge_id"]):
                return *_recorded(place, manifest, names), []
        except LegoRayError as error:
            said = (
                f"The catalog beside it was not read: {error.where}: {error.problem.rstrip('.')}."
            )
            unread.append(f"{said} Say with --catalog where it is.")
    return None, {}, unread


def _compare(
    merged: Place, manifest: dict[str, Any], sources: Sequence[str] | None, memory_budget: int
) -> tuple[tuple[Plan, Compared, SimilarityWatch] | None, list[str]]:
    """Reads the sources that were given, or those of the manifest if they can be read."""
    if sources is not None:
        return (_compared(merged, manifest, sources, memory_budget) if sources else None), []
    own = own_sources(merged, manifest)
    if not own:
        return None, []
    try:
        return _compared(merged, manifest, own, memory_budget), []
    except SourceChanged:
        raise
    except LegoRayError as error:
        unread = f"The sources were not read: {error.where}: {error.problem.rstrip('.')}."
        return None, [f"{unread} Say with --sources where they are."]


def _recorded(
    catalog: Place, manifest: dict[str, Any], names: dict[str, str]
) -> tuple[Recorded, dict[str, SiteFacts]]:
    opened = catalog_at(catalog)
    merge_id = manifest["merge_id"]
    if not has_merge(opened, merge_id):
        raise InvalidOption(
            "--catalog",
            f"{opened.uri} does not hold the merge {merge_id[:12]}",
            "Give the catalog it was recorded in, or none.",
        )
    detail = show(opened, merge_id)
    sites = {
        row["site"]: SiteFacts(
            row["site"],
            error=_finite(row["relative_error"]),
            norm_ratio=_finite(row["norm_ratio"]),
            n_msus=row["n_msus"],
            rank=row["rank"],
            inertia=_finite(row["inertia"]),
        )
        for row in detail.sites.to_pylist()
    }
    each = shares(opened, [merge_id])
    held = [
        Share(name, **each[merge_id, adapter_id])
        for adapter_id, name in names.items()
        if (merge_id, adapter_id) in each
    ]
    found = flow(opened, merge_id)
    if found is None:
        return Recorded(detail.merge, None, None, held), sites
    clusters = [
        Cluster(row["site"], row["place"], row["msus"], row["adapters"])
        for row in found.clusters.to_pylist()
    ]
    places_of: dict[str, dict[int, int]] = {}
    alone: dict[str, int] = {}
    for row in found.adapters.to_pylist():
        places_of.setdefault(row["adapter_id"], {})[row["place"]] = row["msus"]
        alone[row["adapter_id"]] = alone.get(row["adapter_id"], 0) + row["alone"]
    reaches = [
        Reach(name, places_of[adapter_id], alone[adapter_id])
        for adapter_id, name in names.items()
        if adapter_id in places_of
    ]
    return Recorded(detail.merge, clusters, reaches, held), sites


def _finite(value: float | None) -> float | None:
    """A figure of a row; none for one that is not a number, which cannot be drawn."""
    return value if value is not None and math.isfinite(value) else None


def _compared(
    merged: Place, manifest: dict[str, Any], sources: Sequence[str], memory_budget: int
) -> tuple[Plan, Compared, SimilarityWatch]:
    """Reads the sources, for their errors and how alike they are together."""
    adapter = reload_merged(merged, manifest)
    budget = memory_budget - SKETCH_BYTES * len(manifest["sources"])
    if budget < 1:
        raise InvalidOption(
            "--memory-budget",
            "it does not hold what tells how alike the sources are, "
            f"{SKETCH_BYTES // 1024} KiB for each of {len(manifest['sources'])}",
            "Raise it, or leave out --sources.",
        )
    alike: list[SimilarityWatch] = []

    def watching(plan: Plan) -> Watch:
        alike.append(SimilarityWatch(plan))
        return alike[0].take

    return *compare_with_sources(manifest, sources, adapter, budget, watching), alike[0]


def _measured(known: SiteFacts, site: ComparedSite, told: dict[str, Any]) -> SiteFacts:
    """What is known of a site, and its exact figures."""
    squares = [source.squared for source in site.sources.values()]
    return SiteFacts(
        site.site,
        error=told["relative_error_to_sum"],
        norm_ratio=told["norm_ratio"],
        n_msus=known.n_msus,
        rank=known.rank,
        inertia=known.inertia,
        source_norm=math.sqrt(math.fsum(squares) / len(squares)),
        merged_norm=math.sqrt(max(site.to_sum.merged, 0.0)),
    )
