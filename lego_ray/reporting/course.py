"""Time and bytes by stage, and the recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lego_ray.amounts import size
from lego_ray.reporting.drawing import Drawing, canvas, clip
from lego_ray.reporting.facts import Facts
from lego_ray.reporting.numbers import duration
from lego_ray.reporting.style import LIGHT

_MEANING = {
    "scan": "read headers",
    "start": "start workers",
    "plan": "plan",
    "measure": "read and measure, to choose ranks",
    "solve": "read and merge",
    "publish": "write the adapter",
}


@dataclass(frozen=True, slots=True)
class Stages:
    """The stages of a run.

    Attributes:
        rows: Of each stage, in order: what it does, its seconds and bytes.
        longest: What the longest does, and its seconds.
        read: Bytes that were read.
        wrote: Bytes that were written.
        rest: Seconds of the run that are in no stage.
        drawing: The figure.
    """

    rows: Sequence[tuple[str, float, int]]
    longest: tuple[str, float]
    read: int
    wrote: int
    rest: float
    drawing: Drawing


def stages(facts: Facts) -> Stages | None:
    """The stages of the run, if the catalog has them."""
    if facts.recorded is None or not facts.recorded.merge.get("stages"):
        return None
    found: list[dict[str, Any]] = facts.recorded.merge["stages"]
    rows = [
        (_MEANING.get(s["stage"], str(s["stage"])), float(s["seconds"]), s["bytes"]) for s in found
    ]
    wrote = sum(s["bytes"] for s in found if s["stage"] == "publish")
    longest, seconds, _ = max(rows, key=lambda row: row[1])
    return Stages(
        rows,
        (longest, seconds),
        sum(n_bytes for _, _, n_bytes in rows) - wrote,
        wrote,
        max(0.0, facts.recorded.merge["seconds"] - sum(seconds for _, seconds, _ in rows)),
        _bars(rows),
    )


def recipe(facts: Facts) -> Sequence[tuple[str, str]]:
    """What the recipe says, by name, without what it leaves open."""
    found = sorted(facts.manifest["recipe"].items())
    return [(key, _plainly(value)) for key, value in found if value not in (None, {}, [], ())]


def _plainly(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}={v}" for k, v in sorted(value.items()))
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _bars(rows: Sequence[tuple[str, float, int]]) -> Drawing:
    with canvas("stages-figure", 0.8 + 0.38 * len(rows)) as drawn:
        axes = drawn.axes
        seconds = [row[1] for row in rows]
        bars = axes.barh([clip(row[0]) for row in rows], seconds, color=LIGHT["c0"], height=0.62)
        labels = [duration(s) + (f", {size(n_bytes)}" if n_bytes else "") for _, s, n_bytes in rows]
        axes.bar_label(bars, labels, padding=5, fontsize=9)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.3 * (max(seconds) or 1.0))
        axes.set_xlabel("seconds")
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        return drawn.finish()
