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
from lego_ray.numerics.costs import sample_rows
from lego_ray.numerics.kmeans import assign, rough
from lego_ray.tasks.cut import tasks_of
from lego_ray.tasks.values import SolveTask

ROUNDS = 5
# Seconds of products a round: a hundred of them and more.
ROUND_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class SiteWork:
    """What k-means was asked at one site.

    Attributes:
        n: MSUs of its pool.
        d: Their width, d_in + d_out.
        k: Clusters.
    """

    n: int
    d: int
    k: int

    def search_flops(self) -> int:
        """Float32 operations of the products among the rows that starts are tried on.

        They are symmetric: half of them, at two operations a product, is `m^2 d`. What is added up of
        them afterwards is left out.
        """
        return sample_rows(self.n, self.k) ** 2 * self.d

    def finish_flops(self) -> int:
        """Float32 operations of one step on the rows, the fewest there can be: `2 n k d`."""
        return 2 * self.n * self.k * self.d


@dataclass(frozen=True, slots=True)
class Speeds:
    """What this machine gives with every worker busy, all of them together.

    Attributes:
        read: Bytes a second.
        search: Operations a second at the shapes of the products of all rows.
        finish: Operations a second at the shapes of a step on the rows.
    """

    read: float
    search: float
    finish: float


@dataclass(frozen=True, slots=True)
class Roofline:
    """Floors of a merge's wall time, in seconds.

    Attributes:
        reading: Of reading the tensors.
        computing: Of k-means.
    """

    reading: float
    computing: float

    @property
    def seconds(self) -> float:
        """The larger of reading and computing."""
        return max(self.reading, self.computing)


def roofline(sites: Sequence[SiteWork], n_bytes: int, speeds: Speeds) -> Roofline:
    """The floors of a merge.

    Args:
        sites: The work.
        n_bytes: Tensor bytes to read.
        speeds: The machine's.
    """
    return Roofline(
        reading=n_bytes / speeds.read,
        computing=sum(
            site.search_flops() / speeds.search + site.finish_flops() / speeds.finish
            for site in sites
        ),
    )


def site_works(catalog: Path) -> list[SiteWork]:
    """What the one merge of a catalog did."""
    table = lego_ray.catalog.sql(catalog, "SELECT n_msus, d_in + d_out AS d, rank FROM merge_sites")
    rows = table.to_pylist()
    return [SiteWork(r["n_msus"], r["d"], r["rank"]) for r in rows]


def measure_speeds(zoo: Path, site: SiteWork, workers: int) -> Speeds:
    """Measures disk and torch with as many processes as a merge has workers, all at once.

    Args:
        zoo: What to read; as a merge does, except for the decoding.
        site: Gives the products their shapes.
        workers: Processes.
    """
    tasks = list(tasks_of(lego_ray.plan(zoo, rank=site.k)))
    shares = [(share,) for first in range(workers) if (share := tasks[first::workers])]
    search = ("float32", rough.BLOCK, site.d // 2, site.n)
    finish = ("float32", assign.ROWS["cpu"], assign.COLUMNS, site.k)
    return Speeds(
        read=sum(at_once(read_speed, shares)),
        search=sum(at_once(matmul_speed, [search] * workers)),
        finish=sum(at_once(matmul_speed, [finish] * workers)),
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
