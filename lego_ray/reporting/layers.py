"""Error and inertia by layer, and norms before and after."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lego_ray.reporting.axis import Axis, axis_of
from lego_ray.reporting.blocks import BlockFigures, by_family
from lego_ray.reporting.drawing import Drawing, canvas, clip, fewer, series_style
from lego_ray.reporting.facts import Facts, Kept, SiteFacts
from lego_ray.reporting.numbers import number
from lego_ray.reporting.style import LIGHT

# From this ratio of the largest to the smallest on, an axis is logarithmic.
WIDE = 30


@dataclass(frozen=True, slots=True)
class BySite:
    """A figure of each site, drawn along the layers.

    Attributes:
        rows: Sites and their values, in natural order.
        by_layer: Whether sites are drawn by layer.
        of_kinds: Whether marks tell kinds of modules apart.
        families: The figure by family of blocks; empty where there are no blocks by name.
        scale: `logarithmic`, `near` if it does not start at zero, or `from zero`.
        drawing: The figure.
    """

    rows: Sequence[tuple[SiteFacts, float]]
    by_layer: bool
    of_kinds: bool
    families: Sequence[BlockFigures]
    scale: str
    drawing: Drawing

    @property
    def median(self) -> float:
        """Of the values."""
        return float(np.median([value for _, value in self.rows]))

    @property
    def least(self) -> tuple[SiteFacts, float]:
        """The site with the smallest value, and that value."""
        return min(self.rows, key=lambda row: (row[1], row[0].site))

    @property
    def most(self) -> tuple[SiteFacts, float]:
        """The site with the largest value, and that value."""
        return max(self.rows, key=lambda row: (row[1], row[0].site))


@dataclass(frozen=True, slots=True)
class Norms:
    """Norms of sources' updates and of the merged one.

    Attributes:
        sites: Those where neither is zero.
        larger: At how many of them the merged update's norm is larger.
        of_kinds: Whether marks tell kinds of modules apart.
        drawing: The figure.
    """

    sites: Sequence[SiteFacts]
    larger: int
    of_kinds: bool
    drawing: Drawing


def errors(facts: Facts) -> BySite | None:
    """The relative error of each site that has one."""
    return _by_site("errors-figure", facts, lambda s: s.error, "relative error")


def inertia(facts: Facts) -> BySite | None:
    """The inertia per MSU of each site that has one."""

    def per_msu(site: SiteFacts) -> float | None:
        return None if site.inertia is None or not site.n_msus else site.inertia / site.n_msus

    return _by_site("inertia-figure", facts, per_msu, "inertia per MSU")


def ratios(facts: Facts) -> BySite | None:
    """The norm ratio of each site that has one."""
    return _by_site("ratio-figure", facts, lambda s: s.norm_ratio, "norm, of the sum's")


def norms(facts: Facts) -> Norms | None:
    """Norms before and after, if the sources were given and any site has them."""
    known = [s for s in facts.sites if s.source_norm and s.merged_norm]
    if not known:
        return None
    axis = axis_of([s.site for s in known])
    before = np.array([s.source_norm for s in known], dtype=float)
    after = np.array([s.merged_norm for s in known], dtype=float)
    with canvas("norms-figure", 4.6) as drawn:
        axes = drawn.axes
        low, high = 0.9 * min(before.min(), after.min()), 1.1 * max(before.max(), after.max())
        axes.plot([low, high], [low, high], color=LIGHT["axis"], linewidth=1, linestyle="--")
        for n, kind in enumerate(axis.names):
            here = [i for i, found in enumerate(axis.kinds) if found == kind]
            titles = [known[i].site for i in here]
            drawn.marks(
                before[here].tolist(), after[here].tolist(), titles, n, s=30, label=clip(kind)
            )
        if high / low > WIDE:
            axes.set_xscale("log")
            axes.set_yscale("log")
        axes.set_xlabel("before: norm of a source's update, root mean square")
        axes.set_ylabel("after: norm of the merged update")
        axes.grid()
        if len(axis.names) > 1:
            drawn.legend()
        return Norms(known, int((after > before).sum()), len(axis.names) > 1, drawn.finish())


def kept(facts: Facts) -> Sequence[Kept]:
    """Each source against the merged adapter, the one least kept first; those unknown last."""
    found = facts.measured.kept if facts.measured else ()
    return sorted(found, key=lambda k: (k.share is None, k.share or 0.0, k.name))


def _by_site(
    name: str, facts: Facts, value: Callable[[SiteFacts], float | None], label: str
) -> BySite | None:
    known = [(site, value(site)) for site in facts.sites]
    rows = [(site, float(found)) for site, found in known if found is not None]
    if not rows:
        return None
    axis = axis_of([site.site for site, _ in rows])
    scale = _scale([found for _, found in rows])
    drawing = _lines(name, rows, axis, scale, label)
    return BySite(rows, axis.by_layer, len(axis.names) > 1, by_family(rows), scale, drawing)


def _scale(values: Sequence[float]) -> str:
    """How values are drawn: from zero, unless they differ by many times or by little."""
    low, high = min(values), max(values)
    if low > 0 and high / low > WIDE:
        return "logarithmic"
    return "near" if 0.5 * high < low < high else "from zero"


def _lines(
    name: str, rows: Sequence[tuple[SiteFacts, float]], axis: Axis, scale: str, label: str
) -> Drawing:
    """Values along the axis, a line for each kind of module where it goes by layer."""
    from matplotlib.ticker import MaxNLocator

    with canvas(name, 3.9) as drawn:
        axes = drawn.axes
        for n, kind in enumerate(axis.names):
            here = [i for i, found in enumerate(axis.kinds) if found == kind]
            x, y = [axis.positions[i] for i in here], [rows[i][1] for i in here]
            if axis.by_layer and len(set(x)) == len(x):
                axes.plot(x, y, color=series_style(n)[0], linewidth=1.1, alpha=0.8)
            titles = [f"{rows[i][0].site}: {number(rows[i][1])}" for i in here]
            drawn.marks(x, y, titles, n, s=26, label=clip(kind), zorder=3)
        if scale == "logarithmic":
            axes.set_yscale("log")
        elif scale == "from zero":
            axes.set_ylim(bottom=0, top=1.08 * (max(value for _, value in rows) or 1.0))
        axes.set_xlabel(axis.label)
        axes.set_ylabel(label)
        if axis.families:
            spans = list(axis.families.values())
            axes.set_xticks([(first + last) / 2 for first, last in spans], list(axis.families))
            for first, _ in spans[1:]:
                axes.axvline(first - 0.5, color=LIGHT["axis"], linewidth=1, linestyle=":")
        else:
            locator = MaxNLocator(nbins=fewer(14), integer=True, min_n_ticks=1)
            axes.xaxis.set_major_locator(locator)
        axes.grid()
        if len(axis.names) > 1:
            drawn.legend()
        return drawn.finish()
