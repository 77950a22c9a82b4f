"""How full the clusters are, site by site, and where each adapter's MSUs went."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lego_ray.reporting.axis import natural
from lego_ray.reporting.drawing import COLORS, PANEL, canvas, clip
from lego_ray.reporting.facts import Cluster, Facts, Reach
from lego_ray.reporting.html import (
    count,
    figure,
    missing,
    number,
    paragraph,
    percent,
    section,
    table,
)

# Rows of a heat map that have their names beside it.
NAMED = 60
_OCCUPANCY, _FLOW = "How full the clusters are", "Where each adapter went"
_UNTOLD = "This method mixes MSUs, so no merged rank has members of its own."


def occupancy(facts: Facts) -> str:
    """The section of clusters by site."""
    if facts.recorded is None:
        return section(
            "clusters",
            _OCCUPANCY,
            missing("Give --catalog to see how many MSUs each cluster holds."),
        )
    clusters = facts.recorded.clusters
    if not clusters:
        return section("clusters", _OCCUPANCY, missing(_UNTOLD))
    by_site: dict[str, list[Cluster]] = {}
    for cluster in clusters:
        by_site.setdefault(cluster.site, []).append(cluster)
    sites = sorted(by_site, key=natural)
    single = sum(cluster.msus == 1 for cluster in clusters)
    lone = sum(cluster.adapters == 1 for cluster in clusters)
    fullest = max(clusters, key=lambda c: (c.msus / _total(by_site[c.site]), c.site))
    share = fullest.msus / _total(by_site[fullest.site])
    said = (
        f"{count(sum(c.msus for c in clusters), 'MSU')} went into {count(len(clusters), 'cluster')}: "
        f"{percent(single / len(clusters))} of the clusters hold a single MSU and "
        f"{percent(lone / len(clusters))} MSUs of one adapter alone. The fullest for its site holds "
        f"{percent(share)} of the MSUs of {fullest.site}."
    )
    shares = np.full((len(sites), 1 + max(c.place for c in clusters)), np.nan)
    for row, site in enumerate(sites):
        for cluster in by_site[site]:
            shares[row, cluster.place] = cluster.msus / _total(by_site[site])
    drawing = _heat_map(
        "clusters-figure",
        100 * shares,
        sites,
        "cluster, the largest of its site first",
        "% of MSUs",
    )
    caption = (
        "One row a site, one column a cluster, each site's from the largest to the smallest; the "
        "darker, the more of the site's MSUs it holds. An even row shares its MSUs out evenly; one "
        "that is dark at the left has a few clusters that take most."
    )
    heads = ("site", "MSUs", "clusters", "largest", "median", "smallest", "of one MSU", "even as")
    rows = [(site, *_figures([c.msus for c in by_site[site]])) for site in sites]
    note = "; `even as` is how many equal clusters would be as uneven (exponential of the entropy)"
    behind = table(f"Clusters by site{note}", heads, rows)
    return section(
        "clusters", _OCCUPANCY, paragraph(said), figure("clusters-figure", drawing, caption, behind)
    )


def flow(facts: Facts) -> str:
    """The section of adapters by cluster."""
    if facts.recorded is None:
        return section(
            "flow",
            _FLOW,
            missing("Give --catalog to see which clusters each adapter's MSUs went to."),
        )
    reaches = facts.recorded.reaches
    if not reaches:
        return section("flow", _FLOW, missing(_UNTOLD))
    order = sorted(reaches, key=lambda r: (-_alone(r), -_mean_place(r), r.name))
    most, least = order[0], order[-1]
    total = sum(r.msus for r in order)
    alone = sum(r.alone for r in order)
    said = [
        f"{percent(alone / total)} of the MSUs are in clusters that no other adapter has a part in."
    ]
    if len(order) > 1 and _alone(most) > _alone(least):
        said.append(
            f"{clip(most.name)} keeps most to itself ({percent(_alone(most))} of its MSUs), "
            f"{clip(least.name)} least ({percent(_alone(least))})."
        )
    places = 1 + max(place for r in order for place in r.by_place)
    shares = np.full((len(order), places), np.nan)
    for row, reach in enumerate(order):
        for place, msus in reach.by_place.items():
            shares[row, place] = msus / reach.msus
    drawing = _heat_map(
        "flow-figure",
        100 * shares,
        [r.name for r in order],
        "place of the cluster in its site, the largest first",
        "% of its MSUs",
    )
    named = "" if len(order) <= NAMED else " Every so many rows are named; the table names all."
    caption = (
        "One row an adapter, one column the clusters of that place in their sites, over all sites; "
        "the darker, the more of the adapter's MSUs went there. At the left they share large clusters "
        "with many others, at the right small ones. Adapters that keep most to themselves are on "
        f"top.{named}"
    )
    heads = ("adapter", "MSUs", "alone", "share alone", "share in the largest", "mean place")
    rows = (
        (
            r.name,
            r.msus,
            r.alone,
            percent(_alone(r)),
            percent(r.by_place.get(0, 0) / r.msus),
            _mean_place(r) + 1,
        )
        for r in order
    )
    note = "; alone: in clusters that no other adapter has a part in"
    behind = table(f"MSUs by adapter{note}", heads, rows)
    return section("flow", _FLOW, paragraph(*said), figure("flow-figure", drawing, caption, behind))


def _total(clusters: Sequence[Cluster]) -> int:
    return sum(cluster.msus for cluster in clusters)


def _alone(reach: Reach) -> float:
    return reach.alone / reach.msus


def _mean_place(reach: Reach) -> float:
    return sum(place * msus for place, msus in reach.by_place.items()) / reach.msus


def _figures(sizes: Sequence[int]) -> tuple[int | float | str, ...]:
    shares = np.array(sizes) / sum(sizes)
    even = float(np.exp(-(shares * np.log(shares)).sum()))
    ones = sum(n == 1 for n in sizes)
    return (
        sum(sizes),
        len(sizes),
        max(sizes),
        number(float(np.median(sizes))),
        min(sizes),
        ones,
        even,
    )


def _heat_map(
    name: str, values: NDArray[np.float64], rows: Sequence[str], columns: str, unit: str
) -> str:
    """A heat map whose empty cells are blank, its rows named as far as there is room."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap
    from matplotlib.ticker import MaxNLocator

    n, wide = values.shape
    step = -(-n // NAMED)
    height = 1.1 + min(max(0.19 * n, 0.8), 8.5)
    # From a blue that stands out from the panel, lighter to darker: safe for the color-blind.
    shades = ListedColormap(colormaps["Blues"](np.linspace(0.3, 1.0, 256)))
    with canvas(name, height) as (axes, svg):
        axes.set_facecolor(PANEL)
        shown = axes.imshow(
            np.ma.masked_invalid(values),
            cmap=shades,
            aspect="auto",
            interpolation="none",
            vmin=0,
            extent=(0.5, wide + 0.5, n - 0.5, -0.5),
        )
        named = range(0, n, step)
        axes.set_yticks(list(named), [clip(rows[row]) for row in named], fontsize=8)
        axes.tick_params(length=2)
        axes.set_xlabel(columns)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True, min_n_ticks=1))
        for spine in axes.spines.values():
            spine.set_visible(True)
            spine.set_color(COLORS["axis"])
        bar = axes.figure.colorbar(shown, ax=axes, location="top", aspect=70, pad=0.01)
        bar.set_label(unit)
        if bar.solids is not None:
            bar.solids.set_rasterized(True)
        bar.outline.set_edgecolor(COLORS["axis"])
        return svg()
