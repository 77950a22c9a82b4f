"""The sum with all its directions equally strong: Iso-C (arXiv 2502.04959) at rank k."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lego_ray.methods.base import SiteSolution
from lego_ray.methods.whole import Whole
from lego_ray.numerics.costs import Costs
from lego_ray.numerics.lowrank import UpdateComparison
from lego_ray.numerics.pool import Pool
from lego_ray.numerics.truncated_svd import svd_costs, svd_of_sum


@dataclass(frozen=True, slots=True)
class Iso(Whole):
    """`m sum_i u_i v_i^T` over the first k singular directions of the sum, m the mean of their values.

    The paper takes the mean over the full rank of a dense sum. A sum of adapters has few directions, so
    it is taken here over those that are kept, which keeps their nuclear norm; directions that are
    rounding and nothing else are not lifted. One adapter does not come back: its values are evened out.
    """

    @property
    def name(self) -> str:
        """`iso`."""
        return "iso"

    def costs(self, n: int, d_in: int, d_out: int, rank: int) -> Costs:
        """Those of the decomposition."""
        return svd_costs(n, d_in, d_out)

    def merged(self, pool: Pool, rank: int) -> SiteSolution:
        """The directions; see `Whole.merged`."""
        found = svd_of_sum(pool.rows, pool.d_in)
        kept = min(rank, max(found.n_terms, 1))  # one of zeros where there is none
        first = found.s[:kept]
        mean = float(first.mean())
        growth = torch.where(first > 0, mean / first, 0.0).sqrt()[:, None]
        return SiteSolution(
            adapters=pool.adapters,
            ranks=pool.ranks,
            rows=(found.rows(kept) * growth).float().cpu(),
            comparison=UpdateComparison(
                merged=kept * mean**2,
                total=float(found.s.square().sum()),
                inner=mean * float(first.sum()),
            ),
        )
