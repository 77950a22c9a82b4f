"""DARE (arXiv 2311.03099) of A and B apart, then the sum: PEFT's `dare_linear`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lego_ray.methods.density import at_random, check_density
from lego_ray.methods.stacked import Stacked
from lego_ray.numerics.spread import SpreadPool
from lego_ray.numerics.stacks import sum_by_rank


@dataclass(frozen=True, slots=True)
class DareLinear(Stacked):
    """Drops entries at random, divides the rest by the density, and sums, rank by rank.

    In the mean over the draws it is the `linear` merge: A and B are drawn independently.

    Attributes:
        density: Share of the entries of each A and each B that stay.
    """

    density: float = 0.5

    def __post_init__(self) -> None:
        check_density(self.density)

    @property
    def name(self) -> str:
        """`dare_linear`."""
        return "dare_linear"

    def merged_rows(self, pool: SpreadPool, rank: int, generator: torch.Generator) -> Tensor:
        """The rows; see `Parted.merged_rows`."""
        return sum_by_rank(pool, at_random(self.density, generator))
