"""Figures as SVG for a page: drawn by matplotlib, colored by the page's style, text as text."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from lego_ray.errors import MissingPackage
from lego_ray.output.card.markdown import plain
from lego_ray.reporting.style import LIGHT, SERIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# A shape for each series, so that color is not all that tells them apart.
MARKERS = "os^DvPX"
# Characters of a name that a figure has room for; tables have the rest.
ROOM = 34
# The same in a figure for a phone.
_NARROW_ROOM = 16
# In inches, for a desk and for a phone, and dots an inch of which SVG has 72, so that a dot is a unit of
# the drawing.
_WIDTH, _NARROW_WIDTH, _DPI = 9.0, 4.9, 72
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": LIGHT["axis"],
    "axes.labelcolor": LIGHT["ink"],
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "text.color": LIGHT["ink"],
    "xtick.color": LIGHT["axis"],
    "ytick.color": LIGHT["axis"],
    "xtick.labelcolor": LIGHT["ink"],
    "ytick.labelcolor": LIGHT["ink"],
    "grid.color": LIGHT["line"],
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
}


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure for a page.

    Attributes:
        svg: Its `<svg>` element.
        width: Width of the drawing, in its own units.
        height: Height of the drawing, in the same units.
        marks: What shows a name when pointed at: x and y in the drawing's units, and the name.
        reach: How far from its middle a mark is pointed at, in the drawing's units.
    """

    svg: Markup
    width: float
    height: float
    marks: Sequence[tuple[float, float, str]]
    reach: float = 5.0


# Where the drawings of a phone's figures go, by their name, while they are drawn.
_NARROW: ContextVar[dict[str, Drawing] | None] = ContextVar("narrow", default=None)


@contextmanager
def for_a_phone() -> Iterator[Mapping[str, Drawing]]:
    """Figures drawn within are as wide as a phone; gives all of them, by their name."""
    drawings: dict[str, Drawing] = {}
    token = _NARROW.set(drawings)
    try:
        yield drawings
    finally:
        _NARROW.reset(token)


def is_for_a_phone() -> bool:
    """Whether what is drawn now is for a phone."""
    return _NARROW.get() is not None


def fewer(n: int) -> int:
    """So many of something along the width of a figure, or as many of them as a phone has room for."""
    return max(2, round(n * _NARROW_WIDTH / _WIDTH)) if is_for_a_phone() else n


class Canvas:
    """A figure to draw in; made by `canvas`.

    Attributes:
        axes: Its axes.
    """

    def __init__(self, name: str, axes: Axes) -> None:
        self.axes = axes
        self._name = name
        self._marks: list[tuple[float, float, str]] = []

    def marks(
        self, x: Sequence[float], y: Sequence[float], titles: Sequence[str], series: int, **how: Any
    ) -> None:
        """Draws the marks of a series, each of which shows a title when pointed at.

        Args:
            x: The marks' horizontal positions.
            y: Their vertical positions.
            titles: The title of each mark.
            series: Number of the series, for its color and shape.
            how: Passed to matplotlib's `scatter`.
        """
        color, marker = series_style(series)
        self.axes.scatter(x, y, c=color, marker=marker, **how)
        self.point_at(x, y, titles)

    def point_at(self, x: Sequence[float], y: Sequence[float], titles: Sequence[str]) -> None:
        """Shows titles where something was drawn already.

        Args:
            x: Horizontal positions.
            y: Vertical positions.
            titles: The title of each.
        """
        self._marks += zip(map(float, x), map(float, y), titles, strict=True)

    def legend(self) -> None:
        """A legend under the axes, where it hides nothing."""
        self._figure.legend(loc="outside lower center", ncols=fewer(4), handletextpad=0.4)

    @property
    def _figure(self) -> Any:
        return self.axes.figure

    def finish(self, reach: float = 5.0) -> Drawing:
        """The figure as SVG, the same for the same drawing; to be called where it was drawn.

        Args:
            reach: As in `Drawing`.
        """
        # The layout makes the ticks too; then each part gets an identifier of the figure's own.
        self._figure.get_layout_engine().execute(self._figure)
        self._figure.set_layout_engine("none")
        for place, artist in enumerate(self._figure.findobj()):
            artist.set_gid(f"{self._identity}-{place}")
        out = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        # `savefig` would draw it twice, to find a layout that it has.
        self._figure.canvas.print_svg(out, metadata=nothing)
        # Within a page, SVG has no declaration before it.
        svg = out.getvalue()
        width, height = self._figure.get_size_inches() * _DPI
        points = [
            (*self.axes.transData.transform((x, y)), plain(title)) for x, y, title in self._marks
        ]
        marks = [(x, height - y, title) for x, y, title in points]
        drawing = Drawing(Markup(svg[svg.index("<svg") :]), width, height, marks, reach)
        drawings = _NARROW.get()
        if drawings is not None:
            drawings[self._name] = drawing
        return drawing

    @property
    def _identity(self) -> str:
        return _identity(self._name)


def _identity(name: str) -> str:
    """What starts every identifier in a figure: the one for a desk and the one for a phone differ."""
    return f"{name}-phone" if is_for_a_phone() else name


@contextmanager
def canvas(name: str, height: float) -> Iterator[Canvas]:
    """A figure to draw in.

    Args:
        name: Of the figure; starts every identifier in it.
        height: In inches; it is 9 wide, and 4.9 for a phone.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context({**_STYLE, "svg.hashsalt": _identity(name)}), warnings.catch_warnings():
        # Names may have letters that matplotlib's own font lacks; the browser's have them.
        warnings.simplefilter("ignore")
        width = _NARROW_WIDTH if is_for_a_phone() else _WIDTH
        figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
        FigureCanvasSVG(figure)
        yield Canvas(name, figure.add_subplot())


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
    shown, room = plain(name), _NARROW_ROOM if is_for_a_phone() else ROOM
    if len(shown) <= room:
        return shown
    return f"{shown[: room // 2 - 1]}…{shown[-(room // 2) :]}"


def series_style(number: int) -> tuple[str, str]:
    """Color and marker of a series."""
    return LIGHT[SERIES[number % len(SERIES)]], MARKERS[number % len(MARKERS)]
