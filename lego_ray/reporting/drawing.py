"""Figures as SVG for a page: drawn by matplotlib, colored by the page's style, text as text."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from lego_ray.errors import MissingPackage
from lego_ray.output.card.markdown import plain
from lego_ray.reporting.style import LIGHT, SERIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Stand-ins that matplotlib draws with, which become the page's colors of these names.
COLORS: Mapping[str, str] = {name: f"#0123{n:02x}" for n, name in enumerate(sorted(LIGHT))}
# A shape for each series, so that color is not all that tells them apart.
MARKERS = "os^DvPX"
# Characters of a name that a figure has room for; tables have the rest.
ROOM = 34
# Heat maps have a panel of their own, the same by day and by night: their colors mean numbers.
PANEL = "#ffffff"
_WIDTH = 9.0
_SVG, _LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "lego-ray",
    "text.parse_math": False,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": COLORS["axis"],
    "axes.labelcolor": COLORS["ink"],
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "text.color": COLORS["ink"],
    "xtick.color": COLORS["axis"],
    "ytick.color": COLORS["axis"],
    "xtick.labelcolor": COLORS["ink"],
    "ytick.labelcolor": COLORS["ink"],
    "grid.color": COLORS["line"],
    "legend.frameon": False,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
}


def check_installed() -> None:
    """Raises `MissingPackage` if matplotlib, an extra, is not installed."""
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise MissingPackage(
            "lego-ray report",
            "its figures are drawn by matplotlib, which is not installed",
            "pip install 'lego-ray[report]'",
        )


def clip(name: str) -> str:
    """A name on one line, its middle left out where a figure has no room for it."""
    shown = plain(name)
    if len(shown) <= ROOM:
        return shown
    return f"{shown[: ROOM // 2 - 1]}…{shown[-(ROOM // 2) :]}"


@contextmanager
def canvas(name: str, height: float) -> Iterator[tuple[Axes, Callable[[], str]]]:
    """A figure to draw in.

    Args:
        name: Of the figure; starts every identifier in it.
        height: In inches; it is 9 wide.

    Yields:
        Its axes, and what gives it as SVG, to be called within the block. Elements that were given a
        `gid` and titles, by `titled`, show these when pointed at.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # Names may have letters that matplotlib's own font lacks; the browser's have them.
        warnings.simplefilter("ignore")
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        FigureCanvasSVG(figure)
        yield figure.add_subplot(), lambda: _svg(name, figure)


def titled(axes: Axes, gid: str, titles: Sequence[str]) -> None:
    """Keeps the text that each mark of the collection called `gid` shows when pointed at."""
    kept = getattr(axes.figure, "lego_ray_titles", {})
    axes.figure.lego_ray_titles = {**kept, gid: titles}  # type: ignore[union-attr]


def legend_below(axes: Axes, columns: int = 4) -> None:
    """A legend under the axes, where it hides nothing."""
    figure = axes.figure
    figure.legend(loc="outside lower center", ncols=columns, handletextpad=0.4)


def series(number: int) -> tuple[str, str]:
    """Color and marker of a series."""
    return COLORS[SERIES[number % len(SERIES)]], MARKERS[number % len(MARKERS)]


def _svg(name: str, figure: Figure) -> str:
    out = io.BytesIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(out, format="svg", metadata=nothing)
    root = ElementTree.fromstring(out.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith("metadata"):
                parent.remove(child)
    titles = getattr(figure, "lego_ray_titles", {})
    for group in root.iter(f"{_SVG}g"):
        if group.get("id") in titles:
            _set_titles(group, titles[group.get("id")])
    for element in root.iter():
        _adapt(element, name)
    root.attrib.pop("width", None)
    root.attrib.pop("height", None)
    # The caption says what is seen; the drawing's own words would be read in no order.
    root.set("aria-hidden", "true")
    root.set("focusable", "false")
    ElementTree.register_namespace("", _SVG[1:-1])
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=True)


def _set_titles(group: ElementTree.Element, titles: Sequence[str]) -> None:
    marks = list(group.iter(f"{_SVG}use"))
    for mark, title in zip(marks, titles, strict=True):
        ElementTree.SubElement(mark, f"{_SVG}title").text = plain(title)


def _adapt(element: ElementTree.Element, name: str) -> None:
    """Colors by the page's names, identifiers that are the figure's own, the page's letters."""
    for key, value in list(element.attrib.items()):
        if key == "id":
            element.set(key, f"{name}-{value}")
        elif key == f"{_LINK}href":
            del element.attrib[key]
            element.set("href", f"#{name}-{value[1:]}" if value.startswith("#") else value)
        else:
            value = value.replace("url(#", f"url(#{name}-")
            for color, stand_in in COLORS.items():
                value = value.replace(stand_in, f"var(--{color})")
            if element.tag == f"{_SVG}text" and key == "style":
                value = re.sub(r"font: (?:\w+ )*?([\d.]+)px [^;]*", r"font-size: \1px", value)
            element.set(key, value)
    if element.tag == f"{_SVG}text" and "fill" not in element.get("style", ""):
        element.set("style", f"{element.get('style', '')}; fill: var(--ink)")
