"""Core Space merging (arXiv 2509.17786) at rank k."""

from __future__ import annotations

from dataclasses import dataclass

from lego_ray.methods.in_bases import Bases, InBases
from lego_ray.methods.whole import members_of
from lego_ray.numerics.costs import Costs
from lego_ray.numerics.decompositions.core_space import core_space
from lego_ray.numerics.decompositions.truncated_svd import bases_costs
from lego_ray.numerics.pool import Pool


@dataclass(frozen=True, slots=True)
class CoreSpace(InBases):
    """Merges the adapters' cores `M_t`, where `s_t B_t A_t = U M_t V^T`; then keeps the first k terms.

    Unlike `ties` it merges updates, not halves of them: no cross terms, and adapters of any ranks. With
    a sum inside it is `svd`, which needs no cores.
    """

    @property
    def name(self) -> str:
        """`core_space`."""
        return "core_space"

    def costs(self, n: int, d_in: int, d_out: int, rank: int) -> Costs:
        """The bases, and cores of the pool's size."""
        values = min(n, d_in) * min(n, d_out)
        return self.inner_costs(bases_costs(n, d_in, d_out), n, rank, values)

    def bases(self, pool: Pool, rank: int) -> Bases:
        """The adapters' cores; see `InBases.bases`."""
        members = members_of(pool)
        space = core_space(pool.rows, pool.d_in)
        return Bases(lambda: space.cores(members), space.b, space.a, space.decompose, space.sides)
