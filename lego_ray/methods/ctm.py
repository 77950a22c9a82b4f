"""Compress-then-Merge (He et al., ICML 2026, arXiv 2606.03723): the rank before the merge."""

from __future__ import annotations

from dataclasses import dataclass

from lego_ray.methods.in_bases import Bases, InBases
from lego_ray.methods.names import METHODS
from lego_ray.methods.whole import members_of
from lego_ray.numerics.costs import Costs
from lego_ray.numerics.decompositions.core_space import pool_bases
from lego_ray.numerics.decompositions.tucker import tucker, tucker_costs
from lego_ray.numerics.pool import Pool

_DEFAULTS = METHODS["ctm"].options


@dataclass(frozen=True, slots=True)
class Ctm(InBases):
    """Each adapter projected to `U G_t V^T` with U and V of k columns shared by all; then the G merged.

    The other methods merge at full rank and cut the outcome down to k terms; here nothing is left to
    cut. U and V are those of the rank-k Tucker decomposition of all updates together. The merged update
    depends on the adapters' updates alone, not on their factors. One adapter at its own rank comes back,
    if no entries are dropped.

    This follows the paper's abstract and its authors' code (github.com/ZhengbaoHe/compress-then-merge),
    from which `beta` is, and that TIES trims what DARE left. Their factor on the merged update is
    `--output-scale`.

    Attributes:
        beta: How far an adapter's norm counts when U and V are chosen: 1, as it is; 0, all alike.
    """

    beta: float = _DEFAULTS["beta"]

    @property
    def name(self) -> str:
        """`ctm`."""
        return "ctm"

    def costs(self, n: int, d_in: int, d_out: int, rank: int) -> Costs:
        """The bases of the pool, the iteration in them, and cores of k x k."""
        return self.inner_costs(tucker_costs(n, d_in, d_out, rank), n, rank, rank * rank)

    def bases(self, pool: Pool, rank: int) -> Bases:
        """The adapters' cores in the directions they share; see `InBases.bases`."""
        members = members_of(pool)
        space = tucker(pool_bases(pool.rows, pool.d_in), members, rank, self.beta)
        return Bases(lambda: space.cores(members), space.b, space.a, space.decompose, space.sides)
