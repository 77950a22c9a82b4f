"""Directions of the sum and of each adapter, equally strong: Iso-CTS (arXiv 2502.04959) at rank k."""

from __future__ import annotations

from dataclasses import dataclass

from lego_ray.lazy import torch
from lego_ray.methods.base import SiteSolution
from lego_ray.methods.names import METHODS, check_options
from lego_ray.methods.whole import Whole, members_of, solution_of, untrained
from lego_ray.numerics.costs import MATMUL_64, Costs
from lego_ray.numerics.decompositions.common_and_own import common_and_own
from lego_ray.numerics.decompositions.spectrum import LAPACK
from lego_ray.numerics.decompositions.task_vectors import polar
from lego_ray.numerics.decompositions.truncated_svd import UpdateSvd, bases_costs
from lego_ray.numerics.pool import Pool

_DEFAULTS = METHODS["iso_cts"].options


@dataclass(frozen=True, slots=True)
class IsoCts(Whole):
    """`m U V^T`, with U and V the directions of `common_and_own` made orthonormal, m their mean value.

    It follows the authors' code (github.com/danielm1405/iso-merging), with k in place of the full rank
    of a dense sum. Unlike `iso` it keeps directions of single adapters that are too weak in the sum.
    Where k is too small to keep one of each, it is `iso`. One adapter does not come back: its values are
    evened out.

    Attributes:
        common_share: Share of k for the directions of the sum; the rest is shared out among adapters.
    """

    common_share: float = _DEFAULTS["common_share"]

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def name(self) -> str:
        """`iso_cts`."""
        return "iso_cts"

    def costs(self, n: int, d_in: int, d_out: int, rank: int) -> Costs:
        """Bases of both halves, and a decomposition of the sum and of each adapter in them."""
        found = bases_costs(n, d_in, d_out)
        m_a, m_b = min(n, d_in), min(n, d_out)
        # Each of its factors twice, projected and not.
        pairs = 2 * n * (m_a + m_b) * (1 + LAPACK) * max(rank, 1) / MATMUL_64
        return Costs(found.seconds + pairs, found.workspace_bytes + 8 * 4 * rank * (m_a + m_b))

    def merged(self, pool: Pool, rank: int, generator: torch.Generator) -> SiteSolution:
        """The directions; see `Whole.merged`.

        A direction of one adapter has its shares of that one's MSUs, a common one of all: making
        directions orthogonal turns them as a whole.
        """
        members = members_of(pool)
        found = common_and_own(pool.rows, pool.d_in, members, rank, self.common_share)
        if not len(found.s):
            return untrained(pool)
        u, v = polar(found.u.T).T, polar(found.v.T).T
        values = found.s.mean().expand(len(found.s))
        rows = UpdateSvd(found.space.v, found.space.u, u, values, v).rows(rank).float()
        products = (found.space.b.T @ found.u) * (found.space.a.T @ found.v)
        for number, at in enumerate(members):
            mine = (found.owners == number) | (found.owners < 0)
            products[at] *= mine.to(products)
        return solution_of(pool, rows, products)
