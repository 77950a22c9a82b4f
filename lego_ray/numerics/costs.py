"""What the routes of k-means cost in time and memory, to choose the cheaper one.

The two give the same bits: they differ in time and memory. `python -m jobs.benchmarks.routes` measures
both and prints these estimates beside.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lego_ray.numerics.kmeans.partial_sums import CHUNK

# In a pool larger than this, starts are tried on a sample, of 32 rows a cluster if that is more.
SEED_ROWS = 2048
# Lloyd steps from a partition of all rows, and from one of a sample.
STEPS = 3
STEPS_FROM_SAMPLE = 10
# Steps of a start in time of adding up all products, the later of them being of ever fewer rows; and of
# the exchange after the best of them.
STEPS_OF_START = 3
ROUNDS = 20
# Multiply-adds a second of torch's matmul on one core: float64, and float32 with as few columns as
# there are centroids.
MATMUL_64 = 2.0e10
MATMUL_32 = 3.2e10
# The same of float32 products of all rows with all, in blocks of the symmetric half.
SYMMETRIC_32 = 4.5e10
# Seconds to add a product of two rows to a sum.
ADD = 0.8e-9
# Seconds to pass over one value of a pool once: widened to float64 and summed or compared.
TOUCH = 1.2e-9
# Passes of a merge by clusters over its pool, apart from products: for its order, peaks, lengths, sums
# and distances.
PASSES_OF_CLUSTERS = 9
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


def search_costs(m: int, d: int, k: int, n_init: int) -> Costs:
    """The search in a sample: `m^2 d / 2` once, then at most `m^2` a step, whatever d and k.

    Args:
        m: Rows of the sample.
        d: Their width.
        k: Clusters.
        n_init: Starts.
    """
    once = m * m * d / 2 / SYMMETRIC_32
    seeding = k * n_init * m * (2 + math.log(k)) * TOUCH
    adding = m * m * (n_init * STEPS_OF_START + ROUNDS) * ADD
    comparing = k * m * (n_init * STEPS_OF_START + ROUNDS) * 5 * TOUCH
    # Two matrices of float32, products and distances of float64, and their temporaries.
    return Costs(once + seeding + adding + comparing, 8 * m * m * 4 + 8 * k * m * 4)


def gram_costs(n: int, d: int, k: int, n_init: int, *, wide: bool = False) -> Costs:
    """k-means with the products of all rows, by which the norm of the sum is known as well.

    Args:
        n: MSUs.
        d: Their width.
        k: Clusters.
        n_init: Restarts.
        wide: Whether the products are of float64.
    """
    found = search_costs(n, d, k, n_init)
    finish = (STEPS * n * k * d) / MATMUL_32 + PASSES_OF_CLUSTERS * n * d * TOUCH
    comparison = n * k * d / MATMUL_64 + 8 * n * n * TOUCH + 4 * n * d * TOUCH
    workspace = max(found.workspace_bytes, 8 * n * n * 5) + spread_fixed_bytes(d, k, 1)
    row = spread_row_bytes(k, 1) * n + 4 * n * d
    seconds = found.seconds + finish + comparison
    if wide:
        seconds += n * n * d / 2 * (1 / MATMUL_64 - 1 / SYMMETRIC_32)
    return Costs(seconds, workspace + row)


def msu_costs(n: int, d_in: int, d_out: int, k: int, n_init: int) -> Costs:
    """k-means with the products of a sample; and the norm of the sum, `n d_in d_out` once.

    Args:
        n: MSUs.
        d_in: Length of the `a` half.
        d_out: Length of the `b` half.
        k: Clusters.
        n_init: Restarts.
    """
    d = d_in + d_out
    m = sample_rows(n, k)
    found = search_costs(m, d, k, n_init)
    steps = STEPS if m == n else STEPS_FROM_SAMPLE
    finish = steps * n * k * d / MATMUL_32 + PASSES_OF_CLUSTERS * n * d * TOUCH
    norm = n * d_in * d_out / MATMUL_32
    fixed = spread_fixed_bytes(d, k, 1) + found.workspace_bytes + 4 * m * d
    return Costs(found.seconds + finish + norm, fixed + spread_row_bytes(k, 1) * n)


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
