"""The update nearest to all adapters, each measured where it writes: the output metric, at rank k."""

from __future__ import annotations

from dataclasses import dataclass

from lego_ray.lazy import Tensor, torch
from lego_ray.methods.base import SiteSolution
from lego_ray.methods.whole import Whole, members_of, solution_of
from lego_ray.numerics.costs import MATMUL_64, Costs
from lego_ray.numerics.decompositions.output_metric import nearest_in_metric
from lego_ray.numerics.decompositions.truncated_svd import UpdateSvd, bases_costs
from lego_ray.numerics.pool import Pool


@dataclass(frozen=True, slots=True)
class OutputMetric(Whole):
    """`W = (sum_t G_t)^-1 sum_t G_t W_t`, cut to rank k in the metric `sum_t G_t`.

    `G_t = W_t W_t^T / ||W_t||_F^2 + I / d_out` weighs outputs by what adapter t does to them. So each
    output direction is taken from the adapters that use it, instead of from the sum of all. It has no
    options and no seed. A lone adapter and copies of one come back. Where the adapters' outputs overlap
    little the update is about as long as their sum; see `--output-scale`.
    """

    @property
    def name(self) -> str:
        """`output_metric`."""
        return "output_metric"

    def costs(self, n: int, d_in: int, d_out: int, rank: int) -> Costs:
        """Bases of both halves, and some matrices of the pool's size."""
        found = bases_costs(n, d_in, d_out)
        side = min(n, max(d_in, d_out))
        return Costs(
            found.seconds + 30 * side**3 / MATMUL_64, found.workspace_bytes + 8 * 8 * side * side
        )

    def merged(self, pool: Pool, rank: int, generator: torch.Generator) -> SiteSolution:
        """The update's first k terms in the metric; see `Whole.merged`."""
        found, products = self.nearest(pool, rank)
        return solution_of(pool, found.rows(rank).float(), products)

    def nearest(self, pool: Pool, rank: int) -> tuple[UpdateSvd, Tensor]:
        """The minimiser at rank k, and what each MSU is of its terms; see `nearest_in_metric`."""
        return nearest_in_metric(pool.rows, pool.d_in, members_of(pool), rank)
