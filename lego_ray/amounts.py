"""Amounts as people say them, in the terminal and on pages."""

from __future__ import annotations


def size(n_bytes: float) -> str:
    """A number of bytes in the unit people say it in."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n_bytes < 1024:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.1f} TiB"
