"""The truncated singular value decomposition of the sum: PEFT's `svd`, from the factors."""

from __future__ import annotations

from dataclasses import dataclass

from lego_ray.methods.base import SiteSolution
from lego_ray.methods.whole import Whole
from lego_ray.numerics.costs import Costs
from lego_ray.numerics.pool import Pool
from lego_ray.numerics.truncated_svd import svd_costs, svd_of_sum


@dataclass(frozen=True, slots=True)
class Svd(Whole):
    """The adapter of rank k nearest to `sum_t w_t s_t B_t A_t`, which it is if k is at least n.

    Both halves of a merged rank are equally long, as those of trained adapters nearly are; PEFT leaves
    the singular values with B.
    """

    @property
    def name(self) -> str:
        """`svd`."""
        return "svd"

    def costs(self, n: int, d_in: int, d_out: int, rank: int) -> Costs:
        """Two thin QRs, and the decomposition of what they leave."""
        return svd_costs(n, d_in, d_out)

    def merged(self, pool: Pool, rank: int) -> SiteSolution:
        """The first k terms; see `Whole.merged`."""
        found = svd_of_sum(pool.rows, pool.d_in)
        return SiteSolution(
            adapters=pool.adapters,
            ranks=pool.ranks,
            rows=found.rows(rank).float().cpu(),
            comparison=found.compare(rank),
        )
