"""All MSUs side by side: the exact sum of the updates, PEFT's `cat`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lego_ray.errors import InvalidOption
from lego_ray.lazy import torch
from lego_ray.methods.base import SiteSolution
from lego_ray.methods.whole import Whole
from lego_ray.numerics.costs import MATMUL_64, TOUCH, WIDE_ROWS, Costs
from lego_ray.numerics.norms import UpdateComparison, squared_norm_of_sum
from lego_ray.numerics.pool import Pool


@dataclass(frozen=True, slots=True)
class Concat(Whole):
    """`sum_t w_t s_t B_t A_t`, kept exactly: k must be at least n at every site."""

    @property
    def name(self) -> str:
        """`concat`."""
        return "concat"

    def check_ranks(self, ranks: Mapping[str, Sequence[int]], rank: int) -> None:
        """The merged adapter has all ranks of its sources."""
        site = max(ranks, key=lambda name: sum(ranks[name]))
        needed = sum(ranks[site])
        if rank < needed:
            raise InvalidOption(
                "--rank",
                f"{rank} is below the {needed} ranks that {len(ranks[site])} adapters have together at "
                f"{site}, and the concat method keeps them all",
                f"Give --rank {needed}, or use svd, the nearest to the sum at a lower rank.",
            )

    def costs(self, n: int, d_in: int, d_out: int, rank: int) -> Costs:
        """A copy of the pool, and the norm of the sum."""
        d = d_in + d_out
        norm = min(n * n * d, 2 * n * d_in * d_out) / MATMUL_64
        return Costs(norm + 2 * n * d * TOUCH, 4 * n * d + 8 * WIDE_ROWS * d)

    def merged(self, pool: Pool, rank: int, generator: torch.Generator) -> SiteSolution:
        """The MSUs themselves, each its own merged rank; see `Whole.merged`."""
        if rank < pool.n:
            self.check_ranks({"this site": [pool.n]}, rank)
        total = squared_norm_of_sum(pool.rows, pool.d_in)
        return SiteSolution(
            adapters=pool.adapters,
            ranks=pool.ranks,
            rows=pool.rows.cpu(),
            comparison=UpdateComparison(merged=total, total=total, inner=total),
            labels=torch.arange(pool.n),
            distances=torch.zeros(pool.n, dtype=torch.float64),
            weights=torch.ones(pool.n, dtype=torch.float64),
        )
