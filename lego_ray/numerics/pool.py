"""All MSUs of one site over all adapters, in the order they are worked on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lego_ray.errors import ShapeMismatch
from lego_ray.numerics.msu import canonical_order, lengths


@dataclass(frozen=True, slots=True)
class AdapterRows:
    """One adapter's MSUs at a site.

    Attributes:
        adapter: The adapter's number in the plan.
        rows: Shape (r, d), float32; row i is rank i of the source.
        lengths: Their Euclidean lengths, shape (r,), float32; not finite where a row is not.
    """

    adapter: int
    rows: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, adapter: int, rows: Tensor) -> AdapterRows:
        """Rows with their lengths taken."""
        return cls(adapter, rows, lengths(rows))


@dataclass(frozen=True, slots=True)
class Pool:
    """A site's pool.

    Attributes:
        rows: MSUs in canonical order, shape (n, d_in + d_out), float32, scaling folded in.
        d_in: Length of the `a` half.
        adapters: Source adapter of each row, shape (n,), int64.
        ranks: Rank of each row in its source, shape (n,), int64.
    """

    rows: Tensor
    d_in: int
    adapters: Tensor
    ranks: Tensor

    @property
    def n(self) -> int:
        """Number of MSUs."""
        return self.rows.shape[0]

    @property
    def mean_rank(self) -> float:
        """Mean rank of the adapters that have this site."""
        return self.n / int(torch.unique(self.adapters).numel())


def pool_of(parts: Sequence[AdapterRows], d_in: int) -> Pool:
    """Pools the MSUs of several adapters at one site.

    Args:
        parts: At least one adapter's rows, all of one width.
        d_in: Length of the `a` half.

    Raises:
        ShapeMismatch: If there are no parts, or their widths differ.
    """
    widths = {part.rows.shape[1] for part in parts}
    if len(widths) != 1:
        raise ShapeMismatch("pool_of", f"the rows of a pool have widths {sorted(widths)}")
    rows = torch.cat([part.rows for part in parts])
    adapters = torch.cat([torch.full((len(part.rows),), part.adapter) for part in parts])
    ranks = torch.cat([torch.arange(len(part.rows)) for part in parts])
    order = canonical_order(rows, torch.cat([part.lengths for part in parts]))
    return Pool(rows=rows[order], d_in=d_in, adapters=adapters[order], ranks=ranks[order])
