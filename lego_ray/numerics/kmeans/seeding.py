"""k-means++ seeding from distances, for all restarts at once."""

from __future__ import annotations

import math
from collections.abc import Callable

from lego_ray.lazy import Tensor, torch
from lego_ray.numerics.kmeans.partial_sums import chunks

# Squared distances of the points at some positions, of any shape, to all points: one more dimension
# of size n, float64, exactly 0 between equal points.
Distances = Callable[[Tensor], Tensor]

# Squared distances below this share of the two squared lengths are zero: float32 rows that close
# differ by less than their own rounding (relative distance 3e-7).
SAME_POINT = 1e-13
# Rows of a matrix of distances that are computed at a time.
ROWS = 64


def gram_distances(gram: Tensor) -> Distances:
    """Distances by inner products.

    Args:
        gram: Inner products of the points, shape (n, n), float64.
    """
    diagonal = gram.diagonal().contiguous()
    gaps = torch.empty_like(gram)
    longest = 2 * diagonal.max()
    for rows in chunks(gram.shape[0], ROWS):  # all of them, for seeding asks for some of them often
        some = torch.add(diagonal[rows, None], diagonal, out=gaps[rows]).sub_(gram[rows], alpha=2)
        at = (some <= SAME_POINT * longest).nonzero(as_tuple=True)
        lengths = diagonal[rows][at[0]] + diagonal[at[1]]
        some[at] = torch.where(some[at] > SAME_POINT * lengths, some[at], 0.0)
    return lambda rows: gaps[rows]


def kmeans_plus_plus(
    distances: Distances, n: int, k: int, n_init: int, generator: torch.Generator
) -> Tensor:
    """Greedy k-means++ (Arthur and Vassilvitskii, 2007, section 5), by exponential races.

    A row is drawn with probability proportional to its squared distance from the nearest seed: row i
    finishes at time `e_i / D_i^2` with `e_i` standard exponential, and the earliest wins. At each
    step the first `2 + ln k` to finish are candidates, and the one that lowers the potential most is
    taken. With l candidates the expected potential is within `O(l^3 log^3 k)` of the optimum's (Grunau
    et al., "A Nearly Tight Analysis of Greedy k-means++", SODA 2023), against `8 (ln k + 2)` for one
    candidate; in practice it is the lower of the two.

    Args:
        distances: Squared distances between the points.
        n: Number of points.
        k: Seeds wanted, at least 1.
        n_init: Independent restarts.
        generator: CPU generator; it alone fixes the draws.

    Returns:
        Row indices, shape (n_init, k'), int64, on the CPU, where k' is k or the number of distinct
        points if that is smaller.
    """
    candidates = min(n, 2 + int(math.log(k)))

    def finish_times() -> Tensor:
        uniform = torch.rand(n_init, n, dtype=torch.float64, generator=generator)
        return -torch.log1p(-uniform)

    seeds = [finish_times().argmin(dim=1)]
    nearest = distances(seeds[0])
    here = torch.arange(n_init, device=nearest.device)
    while len(seeds) < k and bool((nearest > 0).any()):
        # A restart may leave no row apart from its seeds only when all do: each seed is a new point.
        times = finish_times().to(nearest.device)
        races = torch.where(nearest > 0, times / nearest, torch.inf)
        drawn = races.topk(candidates, dim=1, largest=False, sorted=True).indices
        after = torch.minimum(nearest[:, None, :], distances(drawn))
        winner = after.sum(dim=2).argmin(dim=1, keepdim=True)
        seeds.append(drawn.gather(1, winner)[:, 0].cpu())
        nearest = after[here, winner[:, 0]]
    return torch.stack(seeds, dim=1)
