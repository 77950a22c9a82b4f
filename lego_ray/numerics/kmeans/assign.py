"""Nearest centroids: float32 products, and float64 differences wherever those could be wrong.

So the labels are those of float64 distances, whatever the chunks, the shard or the device.
"""

from __future__ import annotations

from lego_ray.lazy import Tensor, torch
from lego_ray.numerics.kmeans.partial_sums import CHUNK, chunks, rows_in_cache

# Columns of one float32 product. Its rounding is bounded by their number, so with all d at once many
# more rows would have to be looked at again in float64; with 512, the product runs as fast.
COLUMNS = 512
# Rows of one product, on a CPU and on a GPU: enough for full speed.
ROWS = {"cpu": 512, "cuda": 1 << 16}


def assign(points: Tensor, squared: Tensor, centroids: Tensor) -> Tensor:
    """Nearest centroid of each point for several sets of them, ties to the lowest index.

    Args:
        points: Shape (n, d), float32.
        squared: Their `squared_norms`, shape (n,), float64.
        centroids: Shape (restarts, k, d), float64.

    Returns:
        Shape (restarts, n), int64.
    """
    restarts, k, d = centroids.shape
    flat = centroids.reshape(restarts * k, d)
    narrow = [flat[:, at : at + COLUMNS].float() for at in range(0, d, COLUMNS)]
    own = flat.square().sum(dim=1)
    reach = float(own.max().sqrt())
    # Twice the worst rounding of a float32 dot product of this length, on both sides of a comparison,
    # and one more for the rounding of the centroids. By Cauchy-Schwarz the columns' bounds add up to
    # that of one block times both lengths.
    slack = 4 * (min(d, COLUMNS) + 2) * 2.0**-24 * reach * squared.sqrt()
    labels = torch.empty(restarts, points.shape[0], dtype=torch.int64, device=points.device)
    for rows in chunks(points.shape[0], ROWS[points.device.type]):
        products = torch.zeros(
            points[rows].shape[0], restarts * k, dtype=torch.float64, device=points.device
        )
        for at, part in enumerate(narrow):
            products += points[rows, at * COLUMNS : (at + 1) * COLUMNS] @ part.T
        scores = (own - 2 * products).view(-1, restarts, k)
        best, nearest = scores.min(dim=2)
        close = scores <= (best + slack[rows, None])[..., None]
        close &= (close.sum(dim=2) > 1)[..., None]
        row, restart, centroid = close.nonzero(as_tuple=True)
        if row.numel():
            refined = torch.full_like(scores, torch.inf)
            refined[row, restart, centroid] = squared_distances(
                points[rows], flat, row, restart * k + centroid
            )
            again = close.any(dim=2)
            nearest[again] = refined.argmin(dim=2)[again]
        labels[:, rows] = nearest.T
    return labels


def squared_distances(points: Tensor, centroids: Tensor, row: Tensor, centroid: Tensor) -> Tensor:
    """Squared distances of chosen pairs, by differences in float64, so never negative.

    Args:
        points: Shape (n, d), float32.
        centroids: Shape (k, d), float64.
        row: Row of points of each pair, shape (p,), int64.
        centroid: Row of centroids of each pair, shape (p,), int64.

    Returns:
        Shape (p,), float64.
    """
    out = torch.empty(row.shape[0], dtype=torch.float64, device=points.device)
    for pairs in chunks(row.shape[0], CHUNK):
        gaps = points[row[pairs]].double().sub_(centroids[centroid[pairs]])
        out[pairs] = gaps.square_().sum(dim=1)
    return out


def distances_to_own(points: Tensor, labels: Tensor, centroids: Tensor) -> Tensor:
    """Squared distance of each row to its own centroid, by differences.

    Args:
        points: Shape (n, d), float32.
        labels: Shape (n,), integers.
        centroids: Shape (k, d), float64.

    Returns:
        Shape (n,), float64.
    """
    out = torch.empty(points.shape[0], dtype=torch.float64, device=points.device)
    labels = labels.long()
    for rows in chunks(points.shape[0], rows_in_cache(points, CHUNK)):
        gaps = centroids[labels[rows]].sub_(points[rows])
        out[rows] = gaps.square_().sum(dim=1)
    return out
