"""Drops entries of one adapter's factor pair, A and B apart: the least of them, or at random.

The rows come with the scaling folded in, which changes no order of magnitudes within a matrix.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from lego_ray.lazy import Tensor, torch
from lego_ray.numerics.msu import digests

Dropping = Literal["nothing", "least", "random"]


@dataclass(frozen=True, slots=True)
class Sparsity:
    """Which entries of each adapter stay.

    Attributes:
        dropping: `nothing`; the `least` by magnitude (TIES, arXiv 2306.01708, its "trim"); or at
            `random`, the rest divided by the density (DARE, arXiv 2311.03099).
        density: Share that stays, above 0, at most 1.
        draw: What the random choice is made from, beside the rows themselves.
    """

    dropping: Dropping = "nothing"
    density: float = 1.0
    draw: int = 0

    @property
    def drops(self) -> bool:
        """Whether anything is dropped."""
        return self.dropping != "nothing" and self.density < 1

    @property
    def growth(self) -> float:
        """What the entries that stay are divided by."""
        return self.density if self.dropping == "random" else 1.0


def sparsify(rows: Tensor, d_in: int, sparsity: Sparsity) -> Tensor:
    """One adapter's rows with entries dropped.

    Args:
        rows: All its MSUs at a site, shape (r, d_in + d_out), float32.
        d_in: Length of the `a` half.
        sparsity: What to drop.

    Returns:
        Shape (r, d_in + d_out), float32; the same entries whatever order the rows are in.
    """
    if not sparsity.drops:
        return rows
    if sparsity.dropping == "random":
        return torch.where(_drawn(rows, sparsity), rows / sparsity.density, 0.0)
    halves = (rows[:, :d_in], rows[:, d_in:])
    return torch.cat([keep_largest(half, sparsity.density) for half in halves], dim=1)


def keep_largest(values: Tensor, density: float) -> Tensor:
    """Keeps the `int(density * size)` entries of largest magnitude, and zeroes the others.

    Entries as large as the last of them stay too, so that no order of equals decides.

    Args:
        values: Any shape, float32.
        density: Share that stays, above 0, below 1.
    """
    return torch.where(values.abs() >= least_kept(values, density), values, 0.0)


def least_kept(values: Tensor, density: float, at_least: int = 0) -> Tensor:
    """The magnitude of the last entry that `keep_largest` keeps; infinite if it keeps none.

    Args:
        values: As for `keep_largest`.
        density: As for `keep_largest`.
        at_least: Entries that stay however low their share.
    """
    kept = max(int(density * values.numel()), at_least)
    if kept == 0:
        return values.new_tensor(torch.inf)
    return torch.kthvalue(values.abs().flatten(), values.numel() - kept + 1).values


def _drawn(rows: Tensor, sparsity: Sparsity) -> Tensor:
    """Which entries stay, shape (r, d), bool: drawn for each row from the row's own bytes.

    So the choice does not depend on the number or order of adapters, ranks or shards.
    """
    out = torch.empty(rows.shape, dtype=torch.bool)
    for mine, digest in zip(out, digests(rows), strict=True):
        mixed = hashlib.sha256(b"%d\n" % sparsity.draw + digest).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(mixed[:8], "big") >> 1)
        torch.lt(torch.rand(rows.shape[1], generator=generator), sparsity.density, out=mine)
    return out.to(rows.device)
