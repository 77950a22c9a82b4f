"""Time and bytes by stage, and what the merge was made by."""

from __future__ import annotations

from typing import Any

from lego_ray.amounts import size
from lego_ray.reporting.drawing import COLORS, canvas
from lego_ray.reporting.facts import Facts
from lego_ray.reporting.html import (
    Cell,
    duration,
    figure,
    folded,
    missing,
    paragraph,
    section,
    table,
)

_TITLE = "Time and bytes by stage"
_MEANING = {
    "scan": "read headers",
    "start": "start workers",
    "plan": "plan",
    "measure": "read and measure, to choose ranks",
    "solve": "read and merge",
    "publish": "write the adapter",
}


def stages(facts: Facts) -> str:
    """The section of stages."""
    if facts.recorded is None:
        return section(
            "stages", _TITLE, missing("Give --catalog to see the time and bytes of each stage.")
        )
    row = facts.recorded.merge
    found = row.get("stages")
    if not found:
        said = f"The run took {duration(row['seconds'])}; it was recorded before stages were."
        return section("stages", _TITLE, missing(said))
    told = sum(stage["seconds"] for stage in found)
    longest = max(found, key=lambda s: s["seconds"])
    read = sum(s["bytes"] for s in found if s["stage"] != "publish")
    wrote = sum(s["bytes"] for s in found if s["stage"] == "publish")
    said = (
        f"The run took {duration(row['seconds'])}, read {size(read)} and wrote {size(wrote)}. Most of "
        f'its time went to the stage "{_words(longest)}" ({duration(longest["seconds"])}).'
    )
    rest = max(0.0, row["seconds"] - told)
    caption = (
        "Wall time of each stage in the order they began, with the bytes it read or, to write the "
        f"adapter, wrote. What is left of the run, {duration(rest)}, is in no stage. A build's stages "
        "are of all its merges together, and bytes that were read for several count in none."
    )
    rows = ((_words(s), s["seconds"], size(s["bytes"]), s["bytes"]) for s in found)
    behind = table("Stages", ("stage", "seconds", "size", "bytes"), rows)
    drawing = _bars(found)
    return section(
        "stages", _TITLE, paragraph(said), figure("stages-figure", drawing, caption, behind)
    )


def _words(stage: dict[str, Any]) -> str:
    return _MEANING.get(stage["stage"], str(stage["stage"]))


def _bars(found: list[dict[str, Any]]) -> str:
    with canvas("stages-figure", 0.8 + 0.38 * len(found)) as (axes, svg):
        seconds = [s["seconds"] for s in found]
        bars = axes.barh([_words(s) for s in found], seconds, color=COLORS["c0"], height=0.62)
        labels = [
            duration(s["seconds"]) + (f", {size(s['bytes'])}" if s["bytes"] else "") for s in found
        ]
        axes.bar_label(bars, labels, padding=5, fontsize=9)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.3 * (max(seconds) or 1.0))
        axes.set_xlabel("seconds")
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", linewidth=0.6)
        return svg()


def making(facts: Facts) -> str:
    """The section of the recipe, the software and the files."""
    manifest = facts.manifest
    recipe = {k: v for k, v in manifest["recipe"].items() if v not in (None, {}, [], ())}
    rows: list[tuple[str, Cell]] = [
        ("merge_id", manifest["merge_id"]),
        ("base model", manifest.get("base_model") or "-"),
        ("element type", manifest.get("dtype") or "-"),
        *((key, _plainly(value)) for key, value in sorted(recipe.items())),
        *(
            (f"version of {key}", value)
            for key, value in sorted(manifest.get("versions", {}).items())
        ),
    ]
    files = sorted(manifest["files"].items())
    return section(
        "making",
        "How it was made",
        paragraph(
            "The same sources, recipe and seed give the same bytes again; "
            "lego-ray verify holds the files against these hashes."
        ),
        folded("Recipe and software", table("Recipe and software", ("what", "value"), rows)),
        folded(
            "Files",
            table(
                "Files of the merged adapter",
                ("file", "size", "sha256"),
                ((key, size(f["bytes"]), f["sha256"]) for key, f in files),
            ),
        ),
    )


def _plainly(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}={v}" for k, v in sorted(value.items()))
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)
