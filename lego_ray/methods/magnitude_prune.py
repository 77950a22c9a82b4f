"""The sum of the largest entries of each A and each B: PEFT's `magnitude_prune`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lego_ray.methods.density import check_density
from lego_ray.methods.stacked import Stacked
from lego_ray.numerics.sparsify import Sparsity
from lego_ray.numerics.spread import SpreadPool
from lego_ray.numerics.stacks import sum_by_rank


@dataclass(frozen=True, slots=True)
class MagnitudePrune(Stacked):
    """Drops the smallest entries of each adapter and sums what is left, rank by rank.

    Attributes:
        density: Share of the entries of each A and each B that stay.
    """

    density: float = 0.5

    def __post_init__(self) -> None:
        check_density(self.density)

    @property
    def name(self) -> str:
        """`magnitude_prune`."""
        return "magnitude_prune"

    def merged_rows(self, pool: SpreadPool, rank: int, generator: torch.Generator) -> Tensor:
        """The rows; see `Parted.merged_rows`."""
        return sum_by_rank(pool, Sparsity("least", self.density))
