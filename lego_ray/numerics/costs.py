"""What the routes of k-means cost in time and memory, to choose the cheaper one.

The two are exact: they differ in time, never in a label. `python -m jobs.benchmarks.routes`
measures both and prints these estimates beside.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lego_ray.numerics.kmeans.partial_sums import CHUNK

# A pool larger than this is seeded from a sample, of 32 rows a cluster if that is more.
SEED_ROWS = 2048
# Lloyd steps of a restart, as many as on data without clusters in many dimensions, or of few clusters.
STEPS = 10
# Multiply-adds a second of torch's matmul on one core: float64, and float32 with as few columns as
# there are centroids.
MATMUL_64 = 2.0e10
MATMUL_32 = 3.2e10
# Seconds to pass over one value of a pool once: widened to float64 and summed or compared.
TOUCH = 1.2e-9
# Passes over the pool of a restart, apart from its products: the first sums, then ever fewer rows.
PASSES = 3
# Rows of float64 that steps in MSU space have at once: a chunk, its temporaries, its differences.
WIDE_ROWS = 3 * CHUNK


@dataclass(frozen=True, slots=True)
class Costs:
    """An estimate.

    Attributes:
        seconds: On one core.
        workspace_bytes: Most memory apart from the pool.
    """

    seconds: float
    workspace_bytes: int


def sample_rows(n: int, k: int) -> int:
    """Rows a pool of n is seeded from.

    Args:
        n: MSUs of the pool.
        k: Clusters.
    """
    return min(n, max(SEED_ROWS, 32 * k))


def gram_costs(n: int, d: int, k: int, n_init: int) -> Costs:
    """k-means on the Gram matrix: `n^2 d / 2` once, then `n^2 k` a step whatever d.

    Args:
        n: MSUs.
        d: Their width.
        k: Clusters.
        n_init: Restarts.
    """
    once = n * n * d / 2
    steps = n_init * STEPS * n * n * k
    m = sample_rows(n, k)
    # Two matrices, their sum, and either a temporary of one or what seeding draws from it; products,
    # members and scores of every restart; the pool in canonical order.
    matrices = 8 * n * n * 4 + 8 * m * m
    runs = 8 * n * k * n_init * 4
    ordered = 4 * n * d + 8 * n * 1024
    return Costs((once + steps) / MATMUL_64 + 3 * n * d * TOUCH, matrices + runs + ordered)


def msu_costs(n: int, d_in: int, d_out: int, k: int, n_init: int) -> Costs:
    """k-means on the MSUs: `n k d` a step; and the norm of the sum, `n d_in d_out` once.

    Args:
        n: MSUs.
        d_in: Length of the `a` half.
        d_out: Length of the `b` half.
        k: Clusters.
        n_init: Restarts.
    """
    d = d_in + d_out
    m = sample_rows(n, k)
    seeding = m * m * d / 2 / MATMUL_64 + k * n_init * m * (2 + math.log(k)) * TOUCH
    steps = n_init * STEPS * n * k * d / MATMUL_32 + n_init * PASSES * n * d * TOUCH
    norm = n * d_in * d_out / MATMUL_32
    seconds = seeding + steps + norm + 6 * n * d * TOUCH
    fixed = spread_fixed_bytes(d, k, n_init) + 8 * m * m * 2 + 4 * m * d
    return Costs(seconds, fixed + spread_row_bytes(k, n_init) * n)


def spread_fixed_bytes(d: int, k: int, n_init: int) -> int:
    """Memory of a shard's steps apart from its rows, for any number of rows.

    Args:
        d: Width of an MSU.
        k: Clusters, or rows of a result.
        n_init: Restarts.
    """
    centroids = max(k, 64)
    seeds = n_init * (2 + int(math.log(k)))
    blocks = 8 * centroids * d * 4 + 12 * seeds * d
    return blocks + 8 * WIDE_ROWS * d


def spread_row_bytes(k: int, n_init: int) -> int:
    """Memory a row of a shard takes apart from its values: labels, lengths, scores of a chunk.

    Args:
        k: Clusters, or rows of a result.
        n_init: Restarts.
    """
    return 64 + 8 * n_init
