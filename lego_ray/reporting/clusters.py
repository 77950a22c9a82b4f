"""How full the clusters are, site by site, and where each adapter's MSUs went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lego_ray.reporting.axis import natural
from lego_ray.reporting.drawing import Drawing, canvas, clip, fewer
from lego_ray.reporting.facts import Facts, Reach
from lego_ray.reporting.style import LIGHT, PANEL

# Rows of a heat map that have their names beside it.
NAMED = 60


@dataclass(frozen=True, slots=True)
class SiteClusters:
    """The clusters of a site.

    Attributes:
        site: Its name.
        sizes: MSUs of each cluster, the largest first.
        shares: Of the site's MSUs, what each cluster holds.
    """

    site: str
    sizes: list[int]
    shares: NDArray[np.float64]

    @property
    def median(self) -> float:
        """Of the sizes."""
        return float(np.median(self.sizes))

    @property
    def even(self) -> float:
        """How many equal clusters would be as uneven: the exponential of the entropy."""
        return float(np.exp(-(self.shares * np.log(self.shares)).sum()))


@dataclass(frozen=True, slots=True)
class Occupancy:
    """How full the clusters are.

    Attributes:
        sites: The clusters of each site, in natural order.
        n_clusters: How many there are.
        single: Share of the clusters that hold one MSU.
        lone: Share of the clusters that hold MSUs of one adapter only.
        fullest: The site whose largest cluster holds most of its MSUs.
        drawing: The figure.
    """

    sites: Sequence[SiteClusters]
    n_clusters: int
    single: float
    lone: float
    fullest: SiteClusters
    drawing: Drawing

    @property
    def n_msus(self) -> int:
        """How many they hold."""
        return sum(sum(site.sizes) for site in self.sites)


@dataclass(frozen=True, slots=True)
class Flow:
    """Where all adapters' MSUs went.

    Attributes:
        adapters: Those that keep most to themselves first.
        share_alone: Of all MSUs, what is in clusters of one adapter alone.
        drawing: The figure, which may name every so many adapters only.
    """

    adapters: Sequence[Reach]
    share_alone: float
    drawing: Drawing


def occupancy(facts: Facts) -> Occupancy | None:
    """How full the clusters are, if the catalog has them."""
    if facts.recorded is None or not facts.recorded.clusters:
        return None
    clusters = facts.recorded.clusters
    by_site: dict[str, list[int]] = {}
    for cluster in clusters:
        by_site.setdefault(cluster.site, []).append(cluster.msus)
    sites = [
        SiteClusters(site, sizes, np.array(sizes) / sum(sizes))
        for site, sizes in sorted(by_site.items(), key=lambda pair: natural(pair[0]))
    ]
    shares = np.full((len(sites), 1 + max(c.place for c in clusters)), np.nan)
    for row, site in enumerate(sites):
        shares[row, : len(site.sizes)] = site.shares
    drawing = _heat_map(
        "clusters-figure",
        100 * shares,
        [site.site for site in sites],
        "cluster, the largest of its site first",
        "% of MSUs",
    )
    return Occupancy(
        sites,
        len(clusters),
        sum(cluster.msus == 1 for cluster in clusters) / len(clusters),
        sum(cluster.adapters == 1 for cluster in clusters) / len(clusters),
        max(sites, key=lambda site: (site.shares[0], site.site)),
        drawing,
    )


def flow(facts: Facts) -> Flow | None:
    """Where adapters' MSUs went, if the catalog has it."""
    if facts.recorded is None or not facts.recorded.reaches:
        return None
    reaches = sorted(facts.recorded.reaches, key=lambda r: (-r.share_alone, -r.mean_place, r.name))
    shares = np.full((len(reaches), 1 + max(max(r.by_place) for r in reaches)), np.nan)
    for row, reach in enumerate(reaches):
        for place, msus in reach.by_place.items():
            shares[row, place] = msus / reach.msus
    drawing = _heat_map(
        "flow-figure",
        100 * shares,
        [reach.name for reach in reaches],
        "place of the cluster in its site, the largest first",
        "% of its MSUs",
    )
    total = sum(reach.msus for reach in reaches)
    return Flow(reaches, sum(reach.alone for reach in reaches) / total, drawing)


def _heat_map(
    name: str, values: NDArray[np.float64], rows: Sequence[str], columns: str, unit: str
) -> Drawing:
    """A heat map whose empty cells are blank, its rows named as far as there is room."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap
    from matplotlib.ticker import MaxNLocator

    n, wide = values.shape
    step = -(-n // NAMED)
    height = 1.1 + min(max(0.19 * n, 0.8), 8.5)
    # From a blue that stands out from the panel, lighter to darker: safe for the color-blind.
    shades = ListedColormap(colormaps["Blues"](np.linspace(0.3, 1.0, 256)))
    with canvas(name, height) as drawn:
        axes = drawn.axes
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
        axes.xaxis.set_major_locator(MaxNLocator(nbins=fewer(12), integer=True, min_n_ticks=1))
        for spine in axes.spines.values():
            spine.set_visible(True)
            spine.set_color(LIGHT["axis"])
        bar = axes.figure.colorbar(shown, ax=axes, location="top", aspect=fewer(70), pad=0.01)
        bar.locator = MaxNLocator(nbins=fewer(9))
        bar.set_label(unit)
        if bar.solids is not None:
            bar.solids.set_rasterized(True)
        bar.outline.set_edgecolor(LIGHT["axis"])
        return drawn.finish()
