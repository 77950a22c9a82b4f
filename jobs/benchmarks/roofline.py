"""The least time a merge could take on this machine, by its disk and by torch's matrix products.

Bytes over the speed at which the store gives them, and floating-point operations over the speed at
which torch multiplies: the larger of the two is a floor for the wall time of the merge.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import lego_ray
from jobs.benchmarks.cores import at_once
from jobs.benchmarks.source_reads import timed_reads
from lego_ray.numerics.kmeans import assign, gram
from lego_ray.numerics.kmeans.lloyd import CENTROIDS_AT_ONCE
from lego_ray.tasks.cut import tasks_of
from lego_ray.tasks.values import SolveTask

ROUNDS = 5
# Seconds of products a round: a hundred of them and more.
ROUND_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class SiteWork:
    """What k-means was asked at one site, and how many steps it took.

    Attributes:
        n: MSUs of its pool.
        d: Their width, d_in + d_out.
        k: Clusters.
        steps: Lloyd steps of a restart.
    """

    n: int
    d: int
    k: int
    steps: int

    def gram_flops(self, n_init: int) -> int:
        """Float64 operations of the Gram route: `n^2 d + n_init steps 2 n^2 k`.

        The Gram matrix is symmetric: half of it, at two operations a product, is `n^2 d`. A step
        multiplies it with the k columns of cluster membership.
        """
        return self.n**2 * self.d + n_init * self.steps * 2 * self.n**2 * self.k

    def lloyd_flops(self, n_init: int) -> int:
        """Float32 operations of Lloyd's route, rows times centroids: `n_init steps 2 n k d`."""
        return n_init * self.steps * 2 * self.n * self.k * self.d


@dataclass(frozen=True, slots=True)
class Speeds:
    """What this machine gives with every worker busy, all of them together.

    Attributes:
        read: Bytes a second.
        float64: Operations a second at the shapes of the Gram route.
        float32: Operations a second at the shapes of Lloyd's route.
    """

    read: float
    float64: float
    float32: float


@dataclass(frozen=True, slots=True)
class Roofline:
    """Floors of a merge's wall time, in seconds.

    Attributes:
        reading: Of reading the tensors.
        computing: Of k-means, each site by whichever route takes less time.
        by_gram: Of k-means with every site on the Gram route. Only this one has k-means++ in it, which
            takes its distances from the matrix; Lloyd's route would have to compute them.
    """

    reading: float
    computing: float
    by_gram: float

    @property
    def seconds(self) -> float:
        """The larger of reading and computing."""
        return max(self.reading, self.computing)


def roofline(sites: Sequence[SiteWork], n_bytes: int, speeds: Speeds, *, n_init: int) -> Roofline:
    """The floors of a merge.

    Args:
        sites: The work.
        n_bytes: Tensor bytes to read.
        speeds: The machine's.
        n_init: Restarts, each taken to need as many steps as the one that was kept.
    """
    gram = [site.gram_flops(n_init) / speeds.float64 for site in sites]
    lloyd = [site.lloyd_flops(n_init) / speeds.float32 for site in sites]
    return Roofline(
        reading=n_bytes / speeds.read,
        computing=sum(map(min, gram, lloyd)),
        by_gram=sum(gram),
    )


def site_works(catalog: Path) -> list[SiteWork]:
    """What the one merge of a catalog did."""
    table = lego_ray.catalog.sql(
        catalog, "SELECT n_msus, d_in + d_out AS d, rank, iterations FROM merge_sites"
    )
    rows = table.to_pylist()
    return [SiteWork(r["n_msus"], r["d"], r["rank"], r["iterations"]) for r in rows]


def measure_speeds(zoo: Path, site: SiteWork, workers: int) -> Speeds:
    """Measures disk and torch with as many processes as a merge has workers, all at once.

    Args:
        zoo: What to read; as a merge does, except for the decoding.
        site: Gives the products their shapes.
        workers: Processes.
    """
    tasks = list(tasks_of(lego_ray.plan(zoo, rank=site.k)))
    shares = [(share,) for first in range(workers) if (share := tasks[first::workers])]
    products = ("float64", gram.BLOCK, gram.COLUMNS, site.n)
    lloyd = ("float32", assign.ROWS["cpu"], assign.COLUMNS, max(site.k, CENTROIDS_AT_ONCE))
    return Speeds(
        read=sum(at_once(read_speed, shares)),
        float64=sum(at_once(matmul_speed, [products] * workers)),
        float32=sum(at_once(matmul_speed, [lloyd] * workers)),
    )


def read_speed(tasks: list[SolveTask]) -> float:
    """Tensor bytes a second of some tasks' reads, the median of some rounds."""
    return statistics.median(timed_reads(tasks).speed for _ in range(ROUNDS))


def matmul_speed(dtype: str, rows: int, inner: int, columns: int) -> float:
    """Operations a second of `(rows, inner) @ (inner, columns)`, the median of some rounds."""
    generator = torch.Generator().manual_seed(0)
    kind = getattr(torch, dtype)
    left = torch.randn(rows, inner, generator=generator).to(kind)
    right = torch.randn(columns, inner, generator=generator).to(kind).T
    out = left @ right
    speeds = []
    for _ in range(ROUNDS):
        count, started = 0, time.perf_counter()
        while (seconds := time.perf_counter() - started) < ROUND_SECONDS:
            torch.mm(left, right, out=out)
            count += 1
        speeds.append(2 * rows * inner * columns * count / seconds)
    return statistics.median(speeds)
