"""Core Space merging (arXiv 2509.17786) with TIES inside, at rank k."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lego_ray.methods.base import SiteSolution
from lego_ray.methods.density import check_density, check_election
from lego_ray.methods.whole import Whole, members_of
from lego_ray.numerics.core_space import core_space
from lego_ray.numerics.costs import MATMUL_64, TOUCH, Costs
from lego_ray.numerics.elect import PASSES, prevailing
from lego_ray.numerics.lowrank import compare_updates
from lego_ray.numerics.pool import Pool
from lego_ray.numerics.stacks import Election
from lego_ray.numerics.truncated_svd import svd_costs


@dataclass(frozen=True, slots=True)
class CoreSpace(Whole):
    """TIES over the adapters' cores `M_t`, where `s_t B_t A_t = U M_t V^T`; then the first k terms.

    Unlike `ties` it merges updates, not halves of them: no cross terms, and adapters of any ranks. With
    a sum instead of TIES inside, this is `svd`, which needs no cores.

    Attributes:
        density: Share of the entries of each core that stay.
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
        """`core_space`."""
        return "core_space"

    def costs(self, n: int, d_in: int, d_out: int, rank: int) -> Costs:
        """The bases, a core for each adapter, of which there may be n / k, and its passes."""
        found = svd_costs(n, d_in, d_out)
        core = min(n, d_in) * min(n, d_out)
        adapters = max(1, n // max(rank, 1))
        seconds = found.seconds + adapters * core * PASSES * TOUCH + 2 * n * core / MATMUL_64
        return Costs(seconds, found.workspace_bytes + 8 * 12 * core)

    def merged(self, pool: Pool, rank: int, generator: torch.Generator) -> SiteSolution:
        """The merged core's first terms; see `Whole.merged`."""
        space = core_space(pool.rows, pool.d_in)
        members = members_of(pool)
        core = prevailing(lambda: space.cores(members), self.density, self.election)
        rows = space.decompose(core).rows(rank).float()
        return SiteSolution(
            adapters=pool.adapters,
            ranks=pool.ranks,
            rows=rows.cpu(),
            comparison=compare_updates(rows, pool.rows, pool.d_in),
        )
