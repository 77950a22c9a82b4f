"""KnOTS (arXiv 2410.19735) with TIES inside, at rank k."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lego_ray.methods.base import SiteSolution
from lego_ray.methods.density import check_density, check_election
from lego_ray.methods.whole import Whole, members_of
from lego_ray.numerics.costs import MATMUL_64, TOUCH, Costs
from lego_ray.numerics.elect import PASSES, prevailing
from lego_ray.numerics.knots import shared_left
from lego_ray.numerics.lowrank import compare_updates
from lego_ray.numerics.pool import Pool
from lego_ray.numerics.stacks import Election
from lego_ray.numerics.truncated_svd import svd_costs


@dataclass(frozen=True, slots=True)
class Knots(Whole):
    """TIES over the adapters' `V_t`, where `[dW_1 ... dW_T] = U S [V_1 ; ... ; V_T]^T`; then `U S V^T`.

    The first k terms of that are kept, where the paper adds all of it to the model. With a sum instead
    of TIES inside, this is `svd`.

    Attributes:
        density: Share of the entries of each `V_t` that stay.
        election: How an entry's sign is elected: by the `total` of the adapters' values, or by the
            `frequency` of each sign.
    """

    density: float = 0.2
    election: Election = "total"

    def __post_init__(self) -> None:
        check_density(self.density)
        check_election(self.election)

    @property
    def name(self) -> str:
        """`knots`."""
        return "knots"

    def costs(self, n: int, d_in: int, d_out: int, rank: int) -> Costs:
        """The decompositions, a V for each adapter, of which there may be n / k, and its passes."""
        found = svd_costs(n, d_in, d_out)
        values = min(n, d_out) * d_in
        adapters = max(1, n // max(rank, 1))
        seconds = found.seconds + adapters * values * PASSES * TOUCH + 2 * n * values / MATMUL_64
        return Costs(seconds, found.workspace_bytes + 8 * 12 * values)

    def merged(self, pool: Pool, rank: int, generator: torch.Generator) -> SiteSolution:
        """The merged V under what the adapters share; see `Whole.merged`."""
        shared = shared_left(pool.rows, pool.d_in, members_of(pool))
        right = prevailing(shared.rights, self.density, self.election)
        rows = shared.decompose(right).rows(rank).float()
        return SiteSolution(
            adapters=pool.adapters,
            ranks=pool.ranks,
            rows=rows.cpu(),
            comparison=compare_updates(rows, pool.rows, pool.d_in),
        )
