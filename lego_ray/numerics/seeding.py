"""k-means++ seeding from inner products, for all restarts at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Squared distances below this share of the two squared lengths are zero: float32 rows that close
# differ by less than their own rounding (relative distance 3e-7).
SAME_POINT = 1e-13


def kmeans_plus_plus(gram: Tensor, k: int, n_init: int, generator: torch.Generator) -> Tensor:
    """Greedy k-means++ (Arthur and Vassilvitskii, 2007, section 5), by exponential races.

    A row is drawn with probability proportional to its squared distance from the nearest seed: row i
    finishes at time `e_i / D_i^2` with `e_i` standard exponential, and the earliest wins. At each
    step the first `2 + ln k` to finish are candidates, and the one that lowers the potential most is
    taken. A race needs no running total, so it can be held in shards without changing its winner.

    Args:
        gram: Inner products of the points, shape (n, n), float64.
        k: Seeds wanted, at least 1.
        n_init: Independent restarts.
        generator: CPU generator; it alone fixes the draws.

    Returns:
        Row indices, shape (n_init, k'), int64, where k' is k or the number of distinct points if
        that is smaller.
    """
    n = gram.shape[0]
    diagonal = gram.diagonal()
    candidates = min(n, 2 + int(math.log(k)))

    def finish_times() -> Tensor:
        uniform = torch.rand(n_init, n, dtype=torch.float64, generator=generator)
        return -torch.log1p(-uniform).to(gram.device)

    def squared_distances(rows: Tensor) -> Tensor:
        lengths = diagonal[rows][..., None] + diagonal
        distances = lengths - 2 * gram[rows]
        return torch.where(distances > SAME_POINT * lengths, distances, 0.0)

    seeds = [finish_times().argmin(dim=1)]
    nearest = squared_distances(seeds[0])
    while len(seeds) < k and bool((nearest > 0).any()):
        # A restart may leave no row apart from its seeds only when all do: each seed is a new point.
        races = torch.where(nearest > 0, finish_times() / nearest, torch.inf)
        drawn = races.topk(candidates, dim=1, largest=False, sorted=True).indices
        after = torch.minimum(nearest[:, None, :], squared_distances(drawn))
        winner = after.sum(dim=2).argmin(dim=1, keepdim=True)
        seeds.append(drawn.gather(1, winner)[:, 0])
        nearest = after[torch.arange(n_init, device=gram.device), winner[:, 0]]
    return torch.stack(seeds, dim=1)
