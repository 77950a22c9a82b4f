"""KnOTS (arXiv 2410.19735) at rank k."""

from __future__ import annotations

from dataclasses import dataclass

from lego_ray.methods.in_bases import Bases, InBases
from lego_ray.methods.whole import members_of
from lego_ray.numerics.costs import Costs
from lego_ray.numerics.decompositions.knots import shared_left
from lego_ray.numerics.decompositions.truncated_svd import bases_costs
from lego_ray.numerics.pool import Pool


@dataclass(frozen=True, slots=True)
class Knots(InBases):
    """Merges the adapters' `V_t`, where `[dW_1 ... dW_T] = U S [V_1 ; ... ; V_T]^T`; then `U S V^T`.

    The first k terms of that are kept, where the paper adds all of it to the model. With a sum inside it
    is `svd`.
    """

    @property
    def name(self) -> str:
        """`knots`."""
        return "knots"

    def costs(self, n: int, d_in: int, d_out: int, rank: int) -> Costs:
        """The decompositions, and a V for each adapter."""
        values = min(n, d_out) * d_in
        return self.inner_costs(bases_costs(n, d_in, d_out), n, rank, values)

    def bases(self, pool: Pool, rank: int) -> Bases:
        """The adapters' V, and what they share; see `InBases.bases`."""
        shared = shared_left(pool.rows, pool.d_in, members_of(pool))
        return Bases(shared.rights, shared.left, shared.right, shared.decompose, shared.sides)
