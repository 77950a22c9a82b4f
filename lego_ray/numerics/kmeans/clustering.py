"""What every k-means route shares: the result, its stopping rule, and the choice among restarts."""

from __future__ import annotations

from dataclasses import dataclass

from lego_ray.lazy import Tensor, torch

# Restarts whose inertia differs by less found the same partition, or as good as; the first wins, so
# that rounding never chooses between them.
EQUAL_INERTIA = 1e-9


@dataclass(frozen=True, slots=True)
class Clustering:
    """A partition of a pool.

    Attributes:
        labels: Cluster of each row, shape (n,), int64; clusters are numbered in the order of their
            first row, and none is empty.
        inertia: Sum of squared distances of the rows to their cluster's mean, in squared parameter
            units.
        iterations: Lloyd steps taken by the restart that was kept.
    """

    labels: Tensor
    inertia: float
    iterations: int

    @property
    def k(self) -> int:
        """Number of clusters."""
        return int(self.labels.max()) + 1


def converged(previous: float, inertia: float, tol: float) -> bool:
    """Whether a step's relative gain in inertia is at most `tol`.

    Args:
        previous: Inertia before the step, in squared parameter units.
        inertia: Inertia after it, the same unit.
        tol: A ratio, at least 0.
    """
    return previous - inertia <= tol * previous


def best_restart(clusterings: list[Clustering]) -> Clustering:
    """The restart of least inertia; among equals the first."""
    least = min(c.inertia for c in clusterings)
    margin = EQUAL_INERTIA * abs(least)
    return next(c for c in clusterings if c.inertia <= least + margin)


def renumber(labels: Tensor) -> Tensor:
    """Numbers clusters in the order of their first row, leaving none empty.

    Args:
        labels: Shape (n,), int64.

    Returns:
        Shape (n,), int64, values 0 .. k-1.
    """
    _, inverse = torch.unique(labels, return_inverse=True)
    k = int(inverse.max()) + 1
    n = labels.shape[0]
    first = torch.full((k,), n, dtype=torch.int64, device=labels.device)
    first.scatter_reduce_(0, inverse, torch.arange(n, device=labels.device), "amin")
    rank = torch.empty_like(first)
    rank[torch.argsort(first)] = torch.arange(k, device=labels.device)
    return rank[inverse]


def fill_empty(labels: Tensor, distances: Tensor, k: int) -> Tensor:
    """Gives each empty cluster the row farthest from its own centroid.

    Rows alone in their cluster stay. A mean of nothing would be the origin, which is not a member of the
    pool and draws rows to itself.

    Args:
        labels: Shape (n,), int64.
        distances: Squared distance of each row to its centroid, shape (n,), float64.
        k: Number of clusters wanted, at most n.

    Returns:
        Labels of the same shape, every one of the k clusters in use.
    """
    counts = torch.bincount(labels, minlength=k)
    if bool(counts.all()):
        return labels
    labels = labels.clone()
    farthest = torch.argsort(distances, descending=True, stable=True).tolist()
    for empty in (counts == 0).nonzero()[:, 0].tolist():
        donor = next(row for row in farthest if counts[labels[row]] > 1)
        farthest.remove(donor)
        counts[labels[donor]] -= 1
        labels[donor] = empty
        counts[empty] = 1
    return labels


def singletons(n: int) -> Clustering:
    """Every row its own cluster: what k-means gives for k at or above n."""
    return Clustering(labels=torch.arange(n), inertia=0.0, iterations=0)
