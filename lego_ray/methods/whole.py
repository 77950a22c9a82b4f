"""What the methods share that need a site's pool whole."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from lego_ray.errors import InvalidOption
from lego_ray.lazy import Tensor, torch
from lego_ray.methods.base import Route, SiteSolution, SpreadCosts
from lego_ray.numerics.costs import Costs
from lego_ray.numerics.lineage import lineage_of_products
from lego_ray.numerics.norms import compare_updates
from lego_ray.numerics.pool import Pool
from lego_ray.numerics.shards.shard import Shard
from lego_ray.numerics.shards.spread import SpreadPool


class Whole(ABC):
    """A method with one way to solve a site, the pool in memory; see `MergeMethod`."""

    __slots__ = ()

    @property
    @abstractmethod
    def name(self) -> str:
        """The name it is registered and recorded under."""

    @abstractmethod
    def costs(self, n: int, d_in: int, d_out: int, rank: int) -> Costs:
        """What a site takes apart from its pool.

        Args:
            n: MSUs of the site.
            d_in: Length of the `a` half.
            d_out: Length of the `b` half.
            rank: k.
        """

    @abstractmethod
    def merged(self, pool: Pool, rank: int, generator: torch.Generator) -> SiteSolution:
        """Merges one site.

        Args:
            pool: Its pool, in canonical order.
            rank: k, the most rank-one terms the merged site may have.
            generator: CPU generator of the site.
        """

    def check_ranks(  # noqa: B027 - a method need not refuse any
        self, ranks: Mapping[str, Sequence[int]], rank: int
    ) -> None:
        """Any rank will do."""

    def prepare(self, rows: Tensor, d_in: int) -> Tensor:
        """The MSUs as they are."""
        return rows

    def routes(self, n: int, d_in: int, d_out: int, rank: int) -> Sequence[Route]:
        """One, called `factors`."""
        return [Route("factors", self.costs(n, d_in, d_out, rank))]

    def spread(self, n: int, d_in: int, d_out: int, rank: int) -> SpreadCosts | None:
        """None: no part of the pool says enough of the others."""
        return None

    def shard(self, pool: Pool) -> Shard:
        """A shard of the MSUs as they are."""
        return Shard.of(pool)

    def solve(
        self, pool: Pool, rank: int, generator: torch.Generator, route: str = ""
    ) -> SiteSolution:
        """Merges one site; see `MergeMethod.solve`."""
        return self.merged(pool.in_order(), rank, generator)

    def solve_spread(self, pool: SpreadPool, rank: int, generator: torch.Generator) -> SiteSolution:
        """Refuses, which no plan lets it come to.

        Raises:
            InvalidOption: Always.
        """
        raise InvalidOption(
            "--method", f"{self.name} needs the whole pool of a site, but this pool is spread"
        )


def solution_of(pool: Pool, rows: Tensor, products: Tensor) -> SiteSolution:
    """A merged site, compared with the sum of its pool.

    Args:
        pool: The pool, in canonical order.
        rows: Rows `[a' ; b']`, shape (k', d), float32.
        products: What each MSU is of each of them; see `lineage_of_products`, shape (n, k'), float64.
    """
    return SiteSolution(
        adapters=pool.adapters,
        ranks=pool.ranks,
        rows=rows.cpu(),
        comparison=compare_updates(rows, pool.rows, pool.d_in),
        lineage=lineage_of_products(products, pool.adapters),
    )


def untrained(pool: Pool) -> SiteSolution:
    """The merge of a pool without any update: one rank of zeros, which is the least a reader takes.

    Args:
        pool: The pool, in canonical order.
    """
    rows = pool.rows.new_zeros(1, pool.rows.shape[1])
    return solution_of(pool, rows, torch.zeros(pool.n, 1, dtype=torch.float64))


def members_of(pool: Pool) -> list[Tensor]:
    """Positions of each adapter's MSUs, adapters in the order of their first one."""
    numbers = dict.fromkeys(pool.adapters.tolist())
    device = pool.rows.device
    return [torch.nonzero(pool.adapters == t)[:, 0].to(device) for t in numbers]
