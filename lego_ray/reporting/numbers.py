"""Numbers as people read them."""

from __future__ import annotations

import math


def number(value: float | None) -> str:
    """A number for people: whole ones in full, others to three digits; a dash for None."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    if value and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.2e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def percent(share: float) -> str:
    """A share as a percentage: to a tenth below one per cent and near a hundred."""
    whole = share in (0, 1) or 0.01 <= share <= 0.99
    return f"{100 * share:.0f} %" if whole else f"{100 * share:.1f} %"


def duration(seconds: float) -> str:
    """A time in the units people use; a dash for one that is not finite."""
    if not math.isfinite(seconds):
        return "-"
    if seconds < 100:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def count(n: int, noun: str) -> str:
    """`1 site`, `2 sites`."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"
