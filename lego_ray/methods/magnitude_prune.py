"""The sum of the largest entries of each A and each B: PEFT's `magnitude_prune`."""

from __future__ import annotations

from dataclasses import dataclass

from lego_ray.lazy import torch
from lego_ray.methods.parted import MergedRows
from lego_ray.methods.stacked import Sparse
from lego_ray.numerics.shards.spread import SpreadPool
from lego_ray.numerics.sparsify import Sparsity
from lego_ray.numerics.stacks import sum_by_rank


@dataclass(frozen=True, slots=True)
class MagnitudePrune(Sparse):
    """Drops the smallest entries of each adapter and sums what is left, rank by rank."""

    @property
    def name(self) -> str:
        """`magnitude_prune`."""
        return "magnitude_prune"

    def merged_rows(self, pool: SpreadPool, rank: int, generator: torch.Generator) -> MergedRows:
        """The rows; see `Parted.merged_rows`."""
        return MergedRows(*sum_by_rank(pool, Sparsity("least", self.density)))
