"""A map of the adapters by similarity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lego_ray.numerics.similarity.grouping import group, in_order
from lego_ray.numerics.similarity.plane import Plane, plane
from lego_ray.reporting.drawing import MARKERS, Drawing, canvas, clip, fewer, is_for_a_phone
from lego_ray.reporting.facts import Alike, Facts
from lego_ray.reporting.numbers import number
from lego_ray.reporting.style import LIGHT, PANEL

# The fewest adapters that a map is drawn of.
FEWEST = 3
# Names written beside their points, where there is room; every name is shown when pointed at.
NAMED = 60
# The most adapters that a heat map of all pairs has room for, and of which each pair is named.
MOST_HEAT, MOST_POINTED = 200, 24
# Colors of a heat map reach to this cosine at least, so that chance does not look like likeness.
LEAST_SCALE = 0.25
# Of the larger side of the map: what a letter takes.
_LETTER, _LINE = 0.0085, 0.032


@dataclass(frozen=True, slots=True)
class Similarity:
    """How alike the adapters are.

    Attributes:
        pairs: Cosines of all pairs.
        groups: Adapters in each group.
        share: Of the squared distances between updates of norm 1, what the map holds.
        rows: Of each adapter: name, group from 1, the most similar adapter and the cosine with it, mean
            cosine with the others, and its place on the map.
        drawing: The map.
        heat: The cosines of all pairs; None of more adapters than it has room for.
        scale: To which cosine its colors reach: the largest in size, and at least `LEAST_SCALE`.
        suggested: Names in each group of several adapters, the largest group first.
    """

    pairs: NDArray[np.float64]
    groups: Sequence[int]
    share: float
    rows: Sequence[tuple[Any, ...]]
    drawing: Drawing
    heat: Drawing | None
    scale: float
    suggested: Sequence[Sequence[str]]

    @property
    def median(self) -> float:
        """Of the cosines."""
        return float(np.median(self.pairs))


@dataclass(frozen=True, slots=True)
class Arranged:
    """Adapters in groups and in a plane, from which figures of any width are drawn.

    Attributes:
        alike: How alike they are.
        labels: Group of each, from 0, the largest.
        laid: Where each is.
        order: Numbers of the adapters, alike ones side by side.
    """

    alike: Alike
    labels: NDArray[np.int64]
    laid: Plane
    order: NDArray[np.int64]


def arranged(facts: Facts) -> Arranged | None:
    """Adapters in groups and in a plane, if their sources were read and are enough for a map."""
    if facts.measured is None or len(facts.measured.alike.names) < FEWEST:
        return None
    alike = facts.measured.alike
    labels = group(alike.cosines).labels
    return Arranged(alike, labels, plane(alike.cosines), in_order(alike.cosines, labels))


def similarity(found: Arranged) -> Similarity:
    """How alike the adapters are, drawn."""
    alike, labels, laid, order = found.alike, found.labels, found.laid, found.order
    n = len(alike.names)
    others = np.where(np.eye(n, dtype=bool), -np.inf, alike.cosines)
    nearest = others.argmax(axis=1)
    rows = [
        (
            alike.names[i],
            int(labels[i]) + 1,
            alike.names[nearest[i]],
            float(alike.cosines[i, nearest[i]]),
            float((others[i][np.isfinite(others[i])]).mean()),
            *map(float, laid.points[i]),
        )
        for i in range(n)
    ]
    groups = [int(size) for size in np.bincount(labels)]
    pairs = alike.cosines[np.triu_indices(n, 1)]
    drawing = _map(alike, laid.points, labels, groups)
    scale = max(float(np.abs(pairs).max()), LEAST_SCALE)
    heat = _heat(alike, order, labels, scale) if n <= MOST_HEAT else None
    members = [[alike.names[i] for i in order if labels[i] == g] for g in range(len(groups))]
    suggested = [names for names in members if len(names) > 1] if len(groups) > 1 else []
    return Similarity(pairs, groups, laid.share, rows, drawing, heat, scale, suggested)


def _heat(
    alike: Alike, order: NDArray[np.int64], labels: NDArray[np.int64], scale: float
) -> Drawing:
    """Cosines of all pairs, group by group; blank on the diagonal."""
    from matplotlib import colormaps
    from matplotlib.ticker import MaxNLocator

    n = len(order)
    step = -(-n // NAMED)
    names = [clip(alike.names[i]) for i in order]
    cosines = alike.cosines[np.ix_(order, order)]
    height = min(max(0.26 * n, 1.6), 7.0)
    with canvas("heat-figure", height + 0.9) as drawn:
        axes = drawn.axes
        axes.set_facecolor(PANEL)
        shown = axes.imshow(
            np.ma.masked_where(np.eye(n, dtype=bool), cosines),
            cmap=colormaps["RdBu"],
            aspect="auto",
            interpolation="none",
            vmin=-scale,
            vmax=scale,
        )
        for edge in np.flatnonzero(np.diff(labels[order])) + 0.5:
            axes.axhline(edge, color=LIGHT["ink"], linewidth=1)
            axes.axvline(edge, color=LIGHT["ink"], linewidth=1)
        named = list(range(0, n, step))
        axes.set_yticks(named, [names[row] for row in named], fontsize=8)
        numbered = list(range(0, n, -(-n // fewer(30))))
        axes.set_xticks(numbered, [str(row + 1) for row in numbered], fontsize=8)
        axes.tick_params(length=2)
        axes.set_xlabel("adapters in the order of the rows")
        if n <= MOST_POINTED:
            cells = [(i, j) for i in range(n) for j in range(n) if i != j]
            titles = [f"{names[i]}, {names[j]}: {number(float(cosines[i, j]))}" for i, j in cells]
            drawn.point_at([j for _, j in cells], [i for i, _ in cells], titles)
        bar = axes.figure.colorbar(shown, ax=axes, location="top", aspect=fewer(70), pad=0.01)
        bar.locator = MaxNLocator(nbins=fewer(9))
        bar.set_label("cosine of two updates")
        if bar.solids is not None:
            bar.solids.set_rasterized(True)
        bar.outline.set_edgecolor(LIGHT["axis"])
        return drawn.finish(reach=min(18.0, 0.4 * 72 * height / n))


def _map(
    alike: Alike, points: NDArray[np.float64], labels: NDArray[np.int64], groups: Sequence[int]
) -> Drawing:
    n = len(points)
    # The last shape is shared where there are more groups than shapes.
    kinds = np.minimum(labels, len(MARKERS) - 1)
    with canvas("map-figure", 5.6) as drawn:
        axes = drawn.axes
        for kind in range(int(kinds.max()) + 1):
            here = np.flatnonzero(kinds == kind)
            rest = kind == len(MARKERS) - 1 and len(groups) > len(MARKERS)
            name = "further groups" if rest else f"group {kind + 1}"
            drawn.marks(
                points[here, 0],
                points[here, 1],
                [f"{alike.names[int(i)]} ({name})" for i in here],
                kind,
                s=46 if n <= 100 else 22,
                linewidths=0.6,
                edgecolors=LIGHT["ground"],
                label=f"{name} ({len(here):,})",
            )
        axes.set_aspect("equal", adjustable="datalim")
        axes.margins(0.08)
        axes.set_xlabel("first direction")
        axes.set_ylabel("second direction")
        axes.grid()
        if n <= NAMED:
            names = [clip(name) for name in alike.names]
            for i in _with_room(points, names):
                axes.annotate(
                    names[i],
                    points[i],
                    xytext=(6, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=8,
                )
        if len(groups) > 1:
            drawn.legend()
        return drawn.finish()


def _with_room(points: NDArray[np.float64], names: list[str]) -> list[int]:
    """Points whose name, to the right of them, covers no other point and no name before."""
    extent = float(np.ptp(points, axis=0).max()) or 1.0
    scaled = (points - points.min(axis=0)) / extent
    letter = 2 * _LETTER if is_for_a_phone() else _LETTER
    boxes: list[tuple[float, float, float]] = []
    kept = []
    for i in np.lexsort((scaled[:, 0], -scaled[:, 1])):
        x, y = scaled[i]
        end = x + 0.015 + letter * len(names[i])
        apart = np.abs(scaled[:, 1] - y) > _LINE / 2
        apart |= (scaled[:, 0] < x + 0.005) | (scaled[:, 0] > end)
        apart[i] = True
        free = all(abs(y - oy) > _LINE or x > oe or end < ox for ox, oy, oe in boxes)
        if free and apart.all():
            boxes.append((x, y, end))
            kept.append(int(i))
    return kept
