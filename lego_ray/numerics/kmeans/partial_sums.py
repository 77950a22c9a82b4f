"""Exact sums of rows by cluster: a map over any parts of a pool, and a fold in any order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lego_ray.errors import ShapeMismatch
from lego_ray.lazy import Tensor, torch

# Rows widened to float64 at a time: at 8,192 columns their 16 MB stay in a last-level cache.
CHUNK = 256
# Values that are put on the grid at a time, on a CPU: their 2 MB of float64 stay in a core's own cache.
# A product with one-hot labels gives the same bits and takes twice the time.
GRID_VALUES = 1 << 18


@dataclass(frozen=True, slots=True)
class PartialSums:
    """Sums of some rows by cluster; partial sums of a pool add up to the pool's in any order.

    Attributes:
        sums: Shape (k, d), float64, each a multiple of the column's quantum.
        counts: Shape (k,), float64.
    """

    sums: Tensor
    counts: Tensor

    def centroids(self) -> Tensor:
        """Means of the clusters, shape (k, d), float64; no cluster may be empty."""
        return self.sums / self.counts[:, None]

    def explained(self) -> float:
        """`sum_c n_c |mu_c|^2`: squared lengths less inertia."""
        return float((self.sums.square().sum(dim=1) / self.counts).sum())

    def add_(self, other: PartialSums) -> None:
        """Adds other sums to these, exactly."""
        self.sums.add_(other.sums)
        self.counts.add_(other.counts)


def column_peaks(points: Tensor) -> Tensor:
    """Largest magnitude of each column.

    Args:
        points: Shape (n, d), float32.

    Returns:
        Shape (d,), float32. Those of a pool are the maximum of its parts'.
    """
    peak = torch.zeros(points.shape[1], device=points.device)
    for rows in chunks(points.shape[0]):
        peak = torch.maximum(peak, points[rows].abs().amax(dim=0))
    return peak


def quanta_of(peaks: Tensor, n: int) -> Tensor:
    """Grid on which a pool's column sums are exact in float64.

    With values rounded to multiples of `q = 2^(ceil(log2 max|x|) + ceil(log2 n) - 52)`, no sum of
    n of them needs more than float64's 53 bits, so addition is associative (the one-fold case of
    Demmel and Nguyen, "Fast Reproducible Floating-Point Summation", 2013). The rounding is 2^-43 of
    the column's largest value at n = 1,024: far below float32's own.

    Args:
        peaks: The pool's `column_peaks`, shape (d,).
        n: Rows of the whole pool.

    Returns:
        Shape (d,), float64, powers of two (1 for a column of zeros).
    """
    peaks = peaks.double()
    exponent = torch.frexp(peaks).exponent + max(n - 1, 1).bit_length() - 52
    return torch.where(peaks > 0, torch.ldexp(torch.ones_like(peaks), exponent), 1.0)


def column_quanta(points: Tensor) -> Tensor:
    """`quanta_of` a pool that is in memory whole; points has shape (n, d), float32."""
    return quanta_of(column_peaks(points), points.shape[0])


def partial_sums(points: Tensor, labels: Tensor, k: int, quanta: Tensor) -> PartialSums:
    """Sums some points by cluster, exactly.

    Args:
        points: MSU rows, shape (n, d), float32.
        labels: Cluster of each row, shape (n,), integers below k.
        k: Number of clusters.
        quanta: The whole pool's grid, shape (d,), float64.

    Raises:
        ShapeMismatch: If the widths d differ, or labels is not (n,).
    """
    return moved_sums(points, torch.full_like(labels, -1), labels, k, quanta)


def rows_in_cache(values: Tensor, otherwise: int) -> int:
    """Rows of a matrix that are worked on at a time: `GRID_VALUES` on a CPU.

    Args:
        values: The matrix, shape (n, w).
        otherwise: The rows on another device.
    """
    on_cpu = values.device.type == "cpu"
    return max(1, GRID_VALUES // max(1, values.shape[1])) if on_cpu else otherwise


def moved_sums(
    points: Tensor, before: Tensor, after: Tensor, k: int, quanta: Tensor
) -> PartialSums:
    """What some points' change of cluster adds to the sums of each, exactly.

    Because every sum is exact, adding changes to old sums gives the bits of summing again. Late in a
    restart few rows move, and this reads only those. What it asks a GPU, which then has to finish what
    it was given, does not grow with the rows.

    Args:
        points: MSU rows, shape (n, d), float32.
        before: Cluster each row was counted in, shape (n,), integers; -1 for none.
        after: Cluster it is in now, shape (n,), integers below k.
        k: Number of clusters.
        quanta: The whole pool's grid, shape (d,), float64.

    Raises:
        ShapeMismatch: If the widths d differ, or labels are not (n,).
    """
    if points.shape[1:] != quanta.shape or not before.shape == after.shape == points.shape[:1]:
        raise ShapeMismatch(
            "partial_sums",
            f"points {tuple(points.shape)}, labels {tuple(after.shape)} and quanta "
            f"{tuple(quanta.shape)} do not fit together",
        )
    sums = torch.zeros(k, points.shape[1], dtype=torch.float64, device=points.device)
    # Adding 1.5 * 2^52 quanta and taking them away leaves a value rounded to a multiple of one.
    lift = 1.5 * 2.0**52 * quanta
    moved = (before != after).nonzero()[:, 0]
    counted = before[moved] >= 0
    leaving = moved[counted]
    in_order = len(moved) == len(points) and len(leaving) in (0, len(moved))
    if 0 < len(leaving) < len(moved):
        # Those that leave a cluster come first: how many of a chunk do is then known without asking a
        # GPU, which would have to finish each chunk before the next. The order of exact sums is free.
        moved = torch.cat([leaving, moved[~counted]])
    for part in chunks(moved.shape[0], rows_in_cache(points, CHUNK)):
        rows = moved[part]
        values = points[part] if in_order else points[rows]
        on_grid = torch.add(values, lift).sub_(lift)  # widened to float64 as it is added
        sums.index_add_(0, after[rows].long(), on_grid)
        out = min(part.stop, len(leaving)) - part.start
        if out > 0:
            sums.index_add_(0, before[rows[:out]].long(), on_grid[:out], alpha=-1)
    # One bin more for rows counted nowhere.
    counts = torch.bincount(after + 1, minlength=k + 1) - torch.bincount(
        before + 1, minlength=k + 1
    )
    return PartialSums(sums=sums, counts=counts[1:].double())


def fold(parts: Iterable[PartialSums]) -> PartialSums:
    """Adds partial sums; their order is free, because each addition is exact.

    Takes the parts one at a time, so an iterator of them need never be in memory whole.

    Args:
        parts: At least one, all of one shape.

    Raises:
        ShapeMismatch: If there are none, or their shapes differ.
    """
    total: PartialSums | None = None
    for part in parts:
        if total is None:
            total = PartialSums(part.sums.clone(), part.counts.clone())
        else:
            total.add_(part)
    if total is None:
        raise ShapeMismatch("fold", "no partial sums were given")
    return total


def chunks(n: int, size: int = CHUNK) -> Iterator[slice]:
    """Cuts n rows into slices of at most `size`.

    Args:
        n: Rows.
        size: Most rows of a slice.
    """
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def centroids_of(points: Tensor, labels: Tensor) -> Tensor:
    """Means of the clusters of a pool in memory, summed exactly.

    Args:
        points: Shape (n, d), float32.
        labels: Shape (n,), int64, no cluster of 0 .. k-1 empty.

    Returns:
        Shape (k, d), float64. A cluster of one is that row, to the last bit.
    """
    counts = torch.bincount(labels)
    means = partial_sums(points, labels, len(counts), column_quanta(points)).centroids()
    alone = (counts[labels] == 1).nonzero()[:, 0]
    means[labels[alone]] = points[alone].double()  # a row needs no grid
    return means
