"""A map of the adapters by similarity."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lego_ray.numerics.similarity.grouping import group
from lego_ray.numerics.similarity.plane import plane
from lego_ray.reporting.drawing import (
    COLORS,
    MARKERS,
    canvas,
    clip,
    legend_below,
    series,
    titled,
)
from lego_ray.reporting.facts import Alike, Facts
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

# Names written beside their points, where there is room; every name is shown when pointed at.
NAMED = 60
# Of the larger side of the map: what a letter takes.
_LETTER, _LINE = 0.0085, 0.032

_TITLE = "How alike the adapters are"


def similarity_section(facts: Facts) -> str:
    """The section with the map."""
    if facts.measured is None:
        return section(
            "map", _TITLE, missing("Give --sources to see a map of the adapters by similarity.")
        )
    alike = facts.measured.alike
    n = len(alike.names)
    if n < 3:
        return section("map", _TITLE, missing("A map takes three adapters or more."))
    found, laid = group(alike.cosines), plane(alike.cosines)
    others = np.where(np.eye(n, dtype=bool), -np.inf, alike.cosines)
    nearest = others.argmax(axis=1)
    pairs = alike.cosines[np.triu_indices(n, 1)]
    groups = int(found.labels.max()) + 1
    how = "exact" if alike.exact else "estimated from sketches of the updates"
    said = [
        f"Two adapters are alike where their updates point the same way. The cosines here are {how}; "
        f"over all pairs they have median {number(float(np.median(pairs)))}, from "
        f"{number(float(pairs.min()))} to {number(float(pairs.max()))}."
    ]
    if groups > 1:
        biggest = ", ".join(f"{int((found.labels == g).sum()):,}" for g in range(min(groups, 5)))
        more = ", ..." if groups > 5 else ""
        said.append(f"They fall into {groups:,} groups by average linkage, of {biggest}{more}.")
    else:
        said.append("They do not fall into groups that stand apart.")
    caption = (
        "Each mark is an adapter; near marks change the model in like ways. The plane holds "
        f"{percent(laid.share)} of the squared distances between updates of length one (classical "
        "scaling), so what is far apart here is unlike, and what is near may differ in other "
        "directions."
    )
    if groups > 1:
        caption += " Shape and color tell groups apart."
    rows = (
        (
            alike.names[i],
            f"group {found.labels[i] + 1}",
            alike.names[nearest[i]],
            float(alike.cosines[i, nearest[i]]),
            float((others[i][np.isfinite(others[i])]).mean()),
            float(laid.points[i, 0]),
            float(laid.points[i, 1]),
        )
        for i in range(n)
    )
    heads = ("adapter", "group", "most like", "cosine", "mean cosine", "map x", "map y")
    behind = table(f"{count(n, 'adapter')} on the map", heads, rows)
    drawing = _map(alike, laid.points, found.labels)
    return section("map", _TITLE, paragraph(*said), figure("map-figure", drawing, caption, behind))


def _map(alike: Alike, points: NDArray[np.float64], labels: NDArray[np.int64]) -> str:
    n, groups = len(points), int(labels.max()) + 1
    # The last shape is shared where there are more groups than shapes.
    kinds = np.minimum(labels, len(MARKERS) - 1)
    with canvas("map-figure", 5.6) as (axes, svg):
        for kind in range(int(kinds.max()) + 1):
            here = np.flatnonzero(kinds == kind)
            color, marker = series(kind)
            rest = kind == len(MARKERS) - 1 and groups > len(MARKERS)
            name = "further groups" if rest else f"group {kind + 1}"
            gid = f"points-{kind}"
            axes.scatter(
                points[here, 0],
                points[here, 1],
                s=46 if n <= 100 else 22,
                c=color,
                marker=marker,
                linewidths=0.6,
                edgecolors=COLORS["ground"],
                label=f"{name} ({len(here):,})",
                gid=gid,
            )
            titled(axes, gid, [f"{alike.names[int(i)]} ({name})" for i in here])
        axes.set_aspect("equal", adjustable="datalim")
        axes.margins(0.08)
        axes.set_xlabel("first direction")
        axes.set_ylabel("second direction")
        axes.grid(linewidth=0.6)
        if n <= NAMED:
            for i in _with_room(points, [clip(name) for name in alike.names]):
                axes.annotate(
                    clip(alike.names[i]),
                    points[i],
                    xytext=(6, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=8,
                )
        if groups > 1:
            legend_below(axes)
        return svg()


def _with_room(points: NDArray[np.float64], names: list[str]) -> list[int]:
    """Points whose name, to the right of them, covers no other point and no name before."""
    extent = float(np.ptp(points, axis=0).max()) or 1.0
    scaled = (points - points.min(axis=0)) / extent
    boxes: list[tuple[float, float, float]] = []
    kept = []
    for i in np.lexsort((scaled[:, 0], -scaled[:, 1])):
        x, y = scaled[i]
        end = x + 0.015 + _LETTER * len(names[i])
        apart = np.abs(scaled[:, 1] - y) > _LINE / 2
        apart |= (scaled[:, 0] < x + 0.005) | (scaled[:, 0] > end)
        apart[i] = True
        free = all(abs(y - oy) > _LINE or x > oe or end < ox for ox, oy, oe in boxes)
        if free and apart.all():
            boxes.append((x, y, end))
            kept.append(int(i))
    return kept
