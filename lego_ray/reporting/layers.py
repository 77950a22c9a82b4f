"""Error and inertia by layer, and norms before and after."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from lego_ray.reporting.axis import Axis, axis_of
from lego_ray.reporting.drawing import COLORS, canvas, legend_below, series, titled
from lego_ray.reporting.facts import Facts, SiteFacts
from lego_ray.reporting.html import (
    count,
    figure,
    folded,
    missing,
    number,
    paragraph,
    section,
    table,
)

# From this ratio of the largest to the smallest on, an axis is logarithmic.
WIDE = 30
_ERRORS, _NORMS = "Error and inertia by layer", "Norms before and after"


def errors(facts: Facts) -> str:
    """The section of errors and inertia."""
    known = [s for s in facts.sites if s.error is not None]
    if not known:
        lacks = "Give --catalog to see the error and inertia of each site, --sources for the error."
        if facts.sites:
            lacks = "The sum of the updates is zero at every site, so no error is relative to it."
        return section("errors", _ERRORS, missing(lacks))
    worst = max(known, key=lambda s: (s.error or 0.0, s.site))
    best = min(known, key=lambda s: (s.error or 0.0, s.site))
    values = [s.error or 0.0 for s in known]
    said = [
        "The error of a site is how far the merged update is from the sum of its sources' updates, "
        "relative to that sum: 0 is the sum itself, and 1 as far as no update at all.",
        f"Its median over {count(len(known), 'site')} is {number(float(np.median(values)))}.",
    ]
    if worst.error != best.error:
        said.append(
            f"It is largest at {worst.site} ({number(worst.error)}) and smallest at {best.site} "
            f"({number(best.error)})."
        )
    content = [paragraph(*said)]
    axis = axis_of([s.site for s in known])
    caption = f"Relative error to the sum of the updates, by {_by(axis, values)}"
    heads = ("site", "error", "MSUs", "rank")
    behind = table("Error by site", heads, ((s.site, s.error, s.n_msus, s.rank) for s in known))
    drawing = _lines("errors-figure", known, axis, lambda s: s.error or 0.0, "relative error")
    content.append(figure("errors-figure", drawing, caption, behind))
    content.append(_inertia(facts))
    return section("errors", _ERRORS, *content)


def _inertia(facts: Facts) -> str:
    known = [s for s in facts.sites if s.inertia is not None and s.n_msus]
    if not known:
        told = facts.recorded is not None
        return missing(
            "This method does not cluster, so it has no inertia."
            if told
            else "Give --catalog to see the inertia."
        )
    axis = axis_of([s.site for s in known])
    drawing = _lines("inertia-figure", known, axis, _per_msu, "inertia per MSU")
    caption = (
        "Inertia, the sum of squared distances of MSUs to the centroids of their clusters, over the "
        f"number of MSUs, in squared parameter units, by {_by(axis, [*map(_per_msu, known)])} "
        "It grows with the length of MSUs, so compare layers of one kind of module."
    )
    heads = ("site", "inertia", "per MSU", "MSUs", "rank")
    rows = ((s.site, s.inertia, _per_msu(s), s.n_msus, s.rank) for s in known)
    behind = table("Inertia by site", heads, rows)
    return figure("inertia-figure", drawing, caption, behind)


def norms(facts: Facts) -> str:
    """The section of norms."""
    content: list[str] = []
    ratios = [s for s in facts.sites if s.norm_ratio is not None]
    if not ratios:
        said = "Give --catalog or --sources to see the norms of the merged update and of the sum."
        if facts.sites:
            said = (
                "The sum of the updates is zero at every site, so nothing is relative to its norm."
            )
        return section("norms", _NORMS, missing(said))
    known = [s.norm_ratio or 0.0 for s in ratios]
    middle = float(np.median(known))
    content.append(
        paragraph(
            f"The merged update is {number(middle)} times as long as the sum of its sources' updates, "
            f"as the median over {count(len(ratios), 'site')}."
        )
    )
    axis = axis_of([s.site for s in ratios])
    drawing = _lines(
        "ratio-figure", ratios, axis, lambda s: s.norm_ratio or 0.0, "norm, of the sum's"
    )
    caption = (
        f"Norm of the merged update over that of the sum of the updates, by {_by(axis, known)}"
    )
    rows = ((s.site, s.norm_ratio) for s in ratios)
    behind = table("Norm ratio by site", ("site", "merged over sum"), rows)
    content.append(figure("ratio-figure", drawing, caption, behind))
    if facts.measured is None:
        content.append(missing("Give --sources to see the norms of the sources themselves."))
        return section("norms", _NORMS, *content)
    content += [_before_after(facts), _kept(facts)]
    return section("norms", _NORMS, *content)


def _before_after(facts: Facts) -> str:
    known = [s for s in facts.sites if s.source_norm and s.merged_norm]
    if not known:
        return ""
    axis = axis_of([s.site for s in known])
    before = np.array([s.source_norm for s in known], dtype=float)
    after = np.array([s.merged_norm for s in known], dtype=float)
    with canvas("norms-figure", 4.6) as (axes, svg):
        low, high = 0.9 * min(before.min(), after.min()), 1.1 * max(before.max(), after.max())
        axes.plot([low, high], [low, high], color=COLORS["axis"], linewidth=1, linestyle="--")
        for n, name in enumerate(axis.names):
            here = [i for i, kind in enumerate(axis.kinds) if kind == name]
            color, marker = series(n)
            gid = f"norms-{n}"
            axes.scatter(
                before[here], after[here], s=30, c=color, marker=marker, label=name, gid=gid
            )
            titled(axes, gid, [known[i].site for i in here])
        if high / low > WIDE:
            axes.set_xscale("log")
            axes.set_yscale("log")
        axes.set_xlabel("before: a source's norm, root mean square")
        axes.set_ylabel("after: norm of the merged update")
        axes.grid(linewidth=0.6)
        if len(axis.names) > 1:
            legend_below(axes)
        drawing = svg()
    longer = int((after > before).sum())
    caption = (
        "Each mark is a site: the length of a source's update there, as the root mean square over the "
        "sources, and of the merged one. On the dashed line nothing changed; the merged update is "
        f"longer, above the line, at {longer:,} of {count(len(known), 'site')}. Shape and color tell "
        "kinds of modules."
    )
    heads = ("site", "before", "after", "after over before")
    rows = ((s.site, s.source_norm, s.merged_norm, _over(s)) for s in known)
    return figure("norms-figure", drawing, caption, table("Norms by site", heads, rows))


def _kept(facts: Facts) -> str:
    assert facts.measured is not None
    kept = sorted(facts.measured.kept, key=lambda k: (k.share is None, k.share or 0.0, k.name))
    known = [k for k in kept if k.share is not None]
    heads = ("adapter", "norm", "share kept", "cosine")
    whole = table(
        "Sources against the merged adapter",
        heads,
        ((k.name, k.norm, k.share, k.cosine) for k in kept),
    )
    said = "The share of an adapter's update dW that is in the merged update W is <W, dW> / |dW|²."
    if known:
        said += (
            f" It is least for {known[0].name} ({number(known[0].share)}) and most for "
            f"{known[-1].name} ({number(known[-1].share)})."
        )
    return paragraph(said) + folded("How much of each adapter is kept", whole)


def _per_msu(site: SiteFacts) -> float:
    return (site.inertia or 0.0) / (site.n_msus or 1)


def _over(site: SiteFacts) -> float:
    return (site.merged_norm or 0.0) / (site.source_norm or 1.0)


def _by(axis: Axis, values: Sequence[float]) -> str:
    """The end of a caption: what marks are along, and where the other axis starts."""
    kinds = "; shape and color tell kinds of modules" if len(axis.names) > 1 else ""
    scale = _scale(values)
    note = {
        "logarithmic": " The scale is logarithmic.",
        "near": " The scale does not start at zero.",
    }
    return f"{'layer' if axis.by_layer else 'site'}{kinds}.{note.get(scale, '')}"


def _scale(values: Sequence[float]) -> str:
    """How values are drawn: from zero, unless they differ by many times or by little."""
    low, high = min(values), max(values)
    if low > 0 and high / low > WIDE:
        return "logarithmic"
    return "near" if 0.5 * high < low < high else "from zero"


def _lines(
    name: str,
    sites: Sequence[SiteFacts],
    axis: Axis,
    value: Callable[[SiteFacts], float],
    label: str,
) -> str:
    """A value along the axis, a line for each kind of module where it goes by layer."""
    from matplotlib.ticker import MaxNLocator

    values = [value(s) for s in sites]
    with canvas(name, 3.9) as (axes, svg):
        for n, kind in enumerate(axis.names):
            here = [i for i, found in enumerate(axis.kinds) if found == kind]
            color, marker = series(n)
            x, y = [axis.positions[i] for i in here], [values[i] for i in here]
            if axis.by_layer and len(set(x)) == len(x):
                axes.plot(x, y, color=color, linewidth=1.1, alpha=0.8)
            gid = f"{name}-{n}"
            axes.scatter(x, y, s=26, c=color, marker=marker, label=kind, gid=gid, zorder=3)
            titled(axes, gid, [f"{sites[i].site}: {number(values[i])}" for i in here])
        scale = _scale(values)
        if scale == "logarithmic":
            axes.set_yscale("log")
        elif scale == "from zero":
            axes.set_ylim(bottom=0, top=1.08 * (max(values) or 1.0))
        axes.set_xlabel(axis.label)
        axes.set_ylabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=14, integer=True, min_n_ticks=1))
        axes.grid(linewidth=0.6)
        if len(axis.names) > 1:
            legend_below(axes)
        return svg()
