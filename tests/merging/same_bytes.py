"""Adapters written again, copied, and changed where a scan does not look."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import lego_ray
from tests.zoo import WEIGHTS, Site, write_zoo

# Two tensors of 128 KiB at rank 8: the middle is in neither of the samples of 64 KiB.
SITES = (Site("layers.0.q_proj", (4096,), 4096),)
N_BYTES = 2 * 8 * 4096 * 4
RUN: dict[str, Any] = {"rank": 2, "n_init": 1, "runner": "inline", "name": "m"}


def wide_zoo(root: Path, count: int = 2) -> Path:
    return write_zoo(root, count, sites=SITES, rank=8)


def touch(root: Path) -> None:
    """Gives every file a time that none had."""
    for file in sorted(root.rglob("*")):
        if file.is_file():
            at = file.stat().st_mtime_ns + 1_000_000_007
            os.utime(file, ns=(at, at))


def change_middle(weights: Path, value: bytes = b"\x00\x00\x40\x3f" * 64) -> bytes:
    """Overwrites some numbers in the middle of a weights file; returns what the file was."""
    before = weights.read_bytes()
    at = len(before) // 2 // 4 * 4
    weights.write_bytes(before[:at] + value + before[at + len(value) :])
    assert weights.read_bytes() != before
    touch(weights.parent)
    return before


def weights_in(zoo: Path, name: str = "a0") -> Path:
    return zoo / name / WEIGHTS


def merged(zoo: Path | str, output: Path | str, **more: Any) -> dict[str, Any]:
    return lego_ray.merge(zoo, output=output, **{**RUN, **more})


def rows(catalog: Path | str) -> list[dict[str, Any]]:
    """Rows of `adapters`."""
    found: list[dict[str, Any]] = lego_ray.catalog.sql(
        catalog, "SELECT * FROM adapters ORDER BY uri, scanned_at"
    ).to_pylist()
    return found
