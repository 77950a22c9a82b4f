"""DARE (arXiv 2311.03099) of A and B apart, then the sum: PEFT's `dare_linear`."""

from __future__ import annotations

from dataclasses import dataclass

from lego_ray.lazy import torch
from lego_ray.methods.density import at_random
from lego_ray.methods.parted import MergedRows
from lego_ray.methods.stacked import Sparse
from lego_ray.numerics.shards.spread import SpreadPool
from lego_ray.numerics.stacks import sum_by_rank


@dataclass(frozen=True, slots=True)
class DareLinear(Sparse):
    """Drops entries at random, divides the rest by the density, and sums, rank by rank.

    In the mean over the draws it is the `linear` merge: A and B are drawn independently.
    """

    @property
    def name(self) -> str:
        """`dare_linear`."""
        return "dare_linear"

    def merged_rows(self, pool: SpreadPool, rank: int, generator: torch.Generator) -> MergedRows:
        """The rows; see `Parted.merged_rows`."""
        return MergedRows(*sum_by_rank(pool, at_random(self.density, generator)))
