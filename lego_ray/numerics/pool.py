"""All MSUs of one site over some adapters, and how they are gathered."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from lego_ray.errors import ShapeMismatch
from lego_ray.lazy import Tensor, torch
from lego_ray.numerics.msu import canonical_order, lengths


@dataclass(frozen=True, slots=True)
class Pool:
    """A site's pool, or the part of it that one shard holds; rows in any order.

    Attributes:
        rows: MSUs, shape (n, d_in + d_out), float32, scaling folded in.
        d_in: Length of the `a` half.
        adapters: Source adapter of each row, shape (n,), int64.
        ranks: Rank of each row in its source, shape (n,), int64.
        lengths: Euclidean length of each row, shape (n,), float32.
    """

    rows: Tensor
    d_in: int
    adapters: Tensor
    ranks: Tensor
    lengths: Tensor

    @property
    def n(self) -> int:
        """Number of MSUs."""
        return self.rows.shape[0]

    def in_order(self) -> Pool:
        """The same pool with its rows in canonical order."""
        order = canonical_order(self.rows, self.lengths)
        return replace(
            self,
            rows=self.rows[order.to(self.rows.device)],
            adapters=self.adapters[order],
            ranks=self.ranks[order],
            lengths=self.lengths[order.to(self.lengths.device)],
        )

    def to(self, device: str) -> Pool:
        """The same pool with its rows on a device; where they came from stays on the CPU."""
        return replace(self, rows=self.rows.to(device), lengths=self.lengths.to(device))


class PoolBuilder:
    """Fills a pool adapter by adapter, straight into its place, so that no row exists twice.

    Args:
        n: Rows the pool will have.
        d_in: Length of the `a` half.
        d_out: Length of the `b` half.
    """

    def __init__(self, n: int, d_in: int, d_out: int) -> None:
        self._rows = torch.empty(n, d_in + d_out)
        self._lengths = torch.empty(n)
        self._adapters = torch.empty(n, dtype=torch.int64)
        self._ranks = torch.empty(n, dtype=torch.int64)
        self._d_in = d_in
        self._filled = 0

    def room(self, rank: int) -> Tensor:
        """The rows that are filled next, to write them in place before they are added.

        Args:
            rank: How many, at most as many as are left.

        Returns:
            Shape (rank, d), float32, not initialized.
        """
        return self._rows[self._filled : self._filled + rank]

    def add(self, adapter: int, rows: Tensor, lengths: Tensor) -> None:
        """Adds one adapter's MSUs.

        Args:
            adapter: Its number in the plan.
            rows: Shape (r, d), float32; row i is rank i of the source. They may be `room`.
            lengths: Their Euclidean lengths, shape (r,), float32.

        Raises:
            ShapeMismatch: If they do not fit.
        """
        end = self._filled + rows.shape[0]
        if rows.shape[1:] != self._rows.shape[1:] or end > self._rows.shape[0]:
            raise ShapeMismatch(
                "PoolBuilder",
                f"rows {tuple(rows.shape)} do not fit the {self._rows.shape[0] - self._filled} rows "
                f"left of width {self._rows.shape[1]}",
            )
        here = slice(self._filled, end)
        if rows.data_ptr() != self._rows[here].data_ptr():
            self._rows[here] = rows
        self._lengths[here] = lengths
        self._adapters[here] = adapter
        self._ranks[here] = torch.arange(rows.shape[0])
        self._filled = end

    def build(self) -> Pool:
        """The pool.

        Raises:
            ShapeMismatch: If rows are missing, or there are none.
        """
        if self._filled != self._rows.shape[0] or not self._filled:
            raise ShapeMismatch(
                "PoolBuilder", f"{self._filled} rows were added of {self._rows.shape[0]}"
            )
        return Pool(self._rows, self._d_in, self._adapters, self._ranks, self._lengths)


def pool_of(parts: Iterable[tuple[int, Tensor]], d_in: int) -> Pool:
    """Pools the MSUs of several adapters at one site.

    Args:
        parts: Each adapter's number and rows, shape (r, d), float32; at least one, all of one width.
        d_in: Length of the `a` half.

    Raises:
        ShapeMismatch: If there are no parts, or their widths differ.
    """
    parts = list(parts)
    width = parts[0][1].shape[1] if parts else d_in
    builder = PoolBuilder(sum(len(rows) for _, rows in parts), d_in, width - d_in)
    for adapter, rows in parts:
        builder.add(adapter, rows, lengths(rows))
    return builder.build()
