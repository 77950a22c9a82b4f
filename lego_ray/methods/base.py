"""What every merge method is: a pool in, a factor pair of bounded rank out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from lego_ray.lazy import Tensor, torch
from lego_ray.numerics.costs import Costs
from lego_ray.numerics.lineage import Lineage
from lego_ray.numerics.norms import UpdateComparison
from lego_ray.numerics.pool import Pool
from lego_ray.numerics.shards.shard import Shard
from lego_ray.numerics.shards.spread import SpreadPool


@dataclass(frozen=True, slots=True)
class SiteSolution:
    """A merged site; and which MSU went where, if the method says so. Everything on the CPU.

    Attributes:
        adapters: Source adapter of each MSU, in canonical order, shape (n,), int64.
        ranks: Its rank there, shape (n,), int64.
        rows: Rows `[a' ; b']` of the merged factor pair, shape (k', d), float32, k' <= k.
        comparison: The merged update against the sum of the sources.
        labels: Row of `rows` each MSU of the pool went to, shape (n,), int64; None, as are the two
            after it, if the method mixes MSUs instead of grouping them. All of them, and `lineage`, are
            of the ranks as the method makes them, before any `--spectrum`.
        distances: Distance of each MSU to its centroid before reweighting, in the space clustered,
            shape (n,), float64.
        weights: Share each MSU has in its centroid, shape (n,), float64.
        inertia: Sum of the squared distances; None, as is the next, if the method does not cluster.
        iterations: Lloyd steps of the restart kept.
        lineage: Of a method that mixes MSUs: which of them each merged rank is made of; None if it does
            not say.
    """

    adapters: Tensor
    ranks: Tensor
    rows: Tensor
    comparison: UpdateComparison
    labels: Tensor | None = None
    distances: Tensor | None = None
    weights: Tensor | None = None
    inertia: float | None = None
    iterations: int | None = None
    lineage: Lineage | None = None

    def scaled(self, scale: float, d_in: int) -> SiteSolution:
        """The same with its update multiplied, half of the factor on each half of a row.

        Args:
            scale: Factor on the update; a negative one turns the `b` half.
            d_in: Length of the `a` half.
        """
        if scale == 1:
            return self
        rows = scaled_rows(self.rows, scale, d_in)
        found = self.comparison
        comparison = UpdateComparison(
            scale * scale * found.merged, found.total, scale * found.inner
        )
        return replace(self, rows=rows, comparison=comparison)


def scaled_rows(rows: Tensor, scale: float, d_in: int) -> Tensor:
    """Rows `[a ; b]` of an update times a factor; see `SiteSolution.scaled`."""
    if scale == 1:
        return rows
    rows = rows * math.sqrt(abs(scale))
    rows[:, d_in:] *= math.copysign(1.0, scale)
    return rows


@dataclass(frozen=True, slots=True)
class Route:
    """One way for a method to solve a site; all ways give the same bits.

    Attributes:
        name: Its name, shown in the plan.
        costs: Estimated time and memory.
    """

    name: str
    costs: Costs


@dataclass(frozen=True, slots=True)
class SpreadCosts:
    """What a site solved in shards takes of each.

    Attributes:
        row_bytes: Memory of one MSU in its shard.
        fixed_bytes: Other memory of a shard.
        owner_bytes: Memory of the site's owner, which holds no MSU.
    """

    row_bytes: int
    fixed_bytes: int
    owner_bytes: int


class PoolCosts(Protocol):
    """What is done to a site's pool, as far as cutting into tasks needs to know it."""

    @property
    def name(self) -> str:
        """What it is called in errors and records."""

    def routes(self, n: int, d_in: int, d_out: int, rank: int) -> Sequence[Route]:
        """The ways to work on a site whose pool fits a worker, fastest first.

        Args:
            n: MSUs of the site.
            d_in: Length of the `a` half.
            d_out: Length of the `b` half.
            rank: k.
        """

    def spread(self, n: int, d_in: int, d_out: int, rank: int) -> SpreadCosts | None:
        """What the site takes in shards, or None if the pool is needed whole.

        Args:
            n: MSUs of the site.
            d_in: Length of the `a` half.
            d_out: Length of the `b` half.
            rank: k.
        """


class PoolWork(PoolCosts, Protocol):
    """What is done to a site's pool, as far as reading needs to know it too."""

    def prepare(self, rows: Tensor, d_in: int) -> Tensor:
        """One adapter's MSUs at a site as they are to be pooled: the same update.

        Args:
            rows: Shape (r, d), float32; may be returned as it is.
            d_in: Length of the `a` half.
        """

    def shard(self, pool: Pool) -> Shard:
        """Makes a shard of a part of the pool."""


class MergeMethod(PoolWork, Protocol):
    """A merge method with its options as attributes, each checked when it is made.

    Its name is the one it is registered and recorded under.
    """

    def check_ranks(self, ranks: Mapping[str, Sequence[int]], rank: int) -> None:
        """Refuses, before anything is read, a rank that the method cannot give.

        Args:
            ranks: The adapters' ranks at each site.
            rank: k, the most rank-one terms a merged site may have.

        Raises:
            InvalidOption: Saying which rank it takes.
        """

    def solve(
        self, pool: Pool, rank: int, generator: torch.Generator, route: str = ""
    ) -> SiteSolution:
        """Merges one site whose pool is in memory.

        Args:
            pool: The site's MSUs, in any order.
            rank: k, the most rank-one terms the merged site may have.
            generator: CPU generator of this site; the only source of randomness.
            route: One of `routes`; empty for the fastest.
        """

    def solve_spread(self, pool: SpreadPool, rank: int, generator: torch.Generator) -> SiteSolution:
        """The same of a pool in shards, to the same bits.

        Args:
            pool: The site's MSUs, in shards.
            rank: k, the most rank-one terms the merged site may have.
            generator: CPU generator of this site; the only source of randomness.

        Raises:
            InvalidOption: If the method needs the whole pool. The planner never spreads such a pool.
        """
