"""What a soak came to, as the table of docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FAULTS = {
    "slow_down": "answered 503",
    "error_500": "answered 500",
    "reset": "reset",
    "lost_answer": "done but not answered",
    "truncated": "cut short",
    "delay": "late",
}


def table(figures: Mapping[str, Any]) -> str:
    """The table, in Markdown.

    Args:
        figures: What `jobs.soak.soak` writes as JSON.
    """
    faults = figures["faults"]
    kinds = ", ".join(f"{faults.get(kind, 0):,} {words}" for kind, words in FAULTS.items())
    every = f"{figures['kill_every']:g} s"
    rows = {
        "requests spoilt on their way to S3": (
            f"{sum(faults.values()):,} of {figures['requests']:,}: {kinds}"
        ),
        f"workers killed, one every {every}": str(sum(figures["workers_killed"].values())),
        "driver killed, and started again": (
            f"{figures['drivers_killed']}, when {figures['sites_kept_by_the_first']} of "
            f"{figures['sites']} sites were done; {figures['sites_resumed']} of them were not done again"
        ),
        "files that differ from those of a quiet run": str(figures["differences"]),
        "rows missing, doubled or wrong in the catalog": str(figures["catalog_problems"]),
        "checkpoints, leases and unfinished uploads left over": str(
            figures["leftover_objects"] + figures["multipart_uploads"]
        ),
        "wall, and of the quiet run in one process": (
            f"{figures['seconds']:.0f} s, {figures['quiet_seconds']:.0f} s"
        ),
    }
    lines = [("what went wrong", "how often"), ("---", "---"), *rows.items()]
    return "".join(f"| {left} | {right} |\n" for left, right in lines)
