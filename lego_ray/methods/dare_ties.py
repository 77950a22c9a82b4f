"""DARE (arXiv 2311.03099) of A and B apart, then TIES' election: PEFT's `dare_ties`."""

from __future__ import annotations

from dataclasses import dataclass

from lego_ray.lazy import torch
from lego_ray.methods.density import at_random
from lego_ray.methods.parted import MergedRows
from lego_ray.methods.stacked import Elected
from lego_ray.numerics.shards.spread import SpreadPool
from lego_ray.numerics.stacks import mean_of_prevailing


@dataclass(frozen=True, slots=True)
class DareTies(Elected):
    """Drops entries at random, elects the sign, and takes the mean of those that agree."""

    @property
    def name(self) -> str:
        """`dare_ties`."""
        return "dare_ties"

    def merged_rows(self, pool: SpreadPool, rank: int, generator: torch.Generator) -> MergedRows:
        """The rows; see `Parted.merged_rows`."""
        return MergedRows(
            *mean_of_prevailing(pool, at_random(self.density, generator), self.election)
        )
