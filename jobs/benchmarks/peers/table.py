"""What the tools did, as the tables of docs/benchmarks.md and the README."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from jobs.benchmarks.peers.trials import EXACT

TITLES = {
    "lego-ray": "lego-ray",
    "PEFT": "PEFT `add_weighted_adapter`",
    "mergekit": "mergekit",
    "kohya": "kohya sd-scripts",
}
# A nearest adapter found in float32 is this near to the least error there is.
NEAREST = 1e-4

Figures = Mapping[str, Any]


def table(figures: Figures) -> str:
    """All rows, in Markdown.

    Args:
        figures: What `jobs.benchmarks.peers` writes as JSON.
    """
    return _table(figures, _rows(figures))


def brief(figures: Figures) -> str:
    """The rows of the README; of errors their types."""
    rows = _rows(figures)
    kept = ("sum", "nearest", "ties", "dora", "s3", "named", "cost", "many")
    text = _table(figures, {name: rows[name] for name in kept})
    return re.sub(r"`(\w+): [^`]*`", r"`\1`", text)


def _table(figures: Figures, rows: Mapping[str, tuple[str, Callable[[Figures], str]]]) -> str:
    tools = figures["tools"]
    lines = [
        ["", *(f"{TITLES[name]} {of['version']}" for name, of in tools.items())],
        ["---"] * (1 + len(tools)),
    ]
    lines += [[title, *(cell(of) for of in tools.values())] for title, cell in rows.values()]
    return "".join(f"| {' | '.join(line)} |\n".replace("|  |", "| |") for line in lines)


def _rows(figures: Figures) -> dict[str, tuple[str, Callable[[Figures], str]]]:
    count, rank = figures["adapters"], figures["rank"]
    ranks = " and ".join(map(str, figures["ranks"]))
    least = figures["least_error"]
    return {
        "sum": (f"exact sum of {count} adapters of ranks {ranks}: error", _of("sum", _exact)),
        "missing": ("the same where adapters lack modules: error", _of("missing", _exact)),
        "nearest": (
            f"rank {rank}, as near to the sum as it can be: error (least {least:.4f})",
            _of("nearest", lambda trial: _nearest(trial, least)),
        ),
        "backwards": ("the same, adapters in reverse order", _of("backwards", _order)),
        "ties": ("TIES of adapters of these ranks", _of("ties", _ran)),
        "dora": (
            "the sum with one more adapter, a DoRA",
            _of("dora", lambda trial: _dora(trial, **figures["dora"])),
        ),
        "s3": ("adapters on S3", _of("s3", _ran)),
        "named": (
            "sources that the output names",
            _of("sum", lambda trial: f"{trial.get('more', {}).get('sources_named', 0)} of {count}"),
        ),
        "cost": (f"rank {rank} of {count}: processor time, peak memory", _of("nearest", _cost)),
        "many": (f"rank {rank} of {figures['many']}: the same", _of("many", _cost)),
    }


def _of(ask: str, cell: Callable[[Figures], str]) -> Callable[[Figures], str]:
    return lambda of: cell(of[ask]) if ask in of else "not run"


def _ran(trial: Figures) -> str:
    if trial["outcome"] == "failed":
        return f"no: `{trial['error']}`"
    return {"worked": "yes", "nothing": "writes an empty file", "no method": "no"}[trial["outcome"]]


def _exact(trial: Figures) -> str:
    if trial["outcome"] != "worked":
        return _ran(trial)
    error = trial["relative_error"]
    return f"{error:.0e}" if error < EXACT else f"**{error:.2g}**"


def _nearest(trial: Figures, least: float) -> str:
    if trial["outcome"] != "worked":
        return _ran(trial)
    error = trial["relative_error"]
    return f"{error:.4f}" if error < least * (1 + NEAREST) else f"**{error:.4f}**"


def _order(trial: Figures) -> str:
    if trial["outcome"] != "worked":
        return _ran(trial)
    return "same bytes" if trial["more"]["same_bytes"] else "other bytes"


def _dora(trial: Figures, rank: int, least_error: float) -> str:
    """The change that a DoRA makes has full rank: an adapter can only come near to it."""
    if trial["outcome"] != "worked":
        return _ran(trial)
    if trial["more"]["left_out"]:
        return "left out, with the reason; the others are merged"
    error = trial["relative_error"]
    if error < least_error * (1 + NEAREST):
        return f"merged, as near as rank {rank} can be: {error:.2g}"
    how = "with a message" if trial["more"]["says_dora"] else "without a message"
    return f"merged wrongly, {how}: **{error:.2g}**"


def _cost(trial: Figures) -> str:
    if "cpu_seconds" not in trial:
        return _ran(trial)
    return f"{trial['cpu_seconds']:.0f} s, {trial['peak_bytes'] / 1e6:.0f} MB"
