"""TIES-Merging (arXiv 2306.01708) of A and B apart: PEFT's `ties`."""

from __future__ import annotations

from dataclasses import dataclass

from lego_ray.lazy import torch
from lego_ray.methods.names import METHODS
from lego_ray.methods.parted import MergedRows
from lego_ray.methods.stacked import Elected
from lego_ray.numerics.shards.spread import SpreadPool
from lego_ray.numerics.sparsify import Sparsity
from lego_ray.numerics.stacks import mean_of_prevailing

_DEFAULTS = METHODS["ties"].options


@dataclass(frozen=True, slots=True)
class Ties(Elected):
    """Trim, elect the sign, and take the mean of those that agree.

    The default density is the paper's. PEFT elects signs before it scales and weighs the adapters; here
    a larger update has a larger vote, so the two agree where the adapters' `w_t s_t` are equal, and
    everywhere as functions of the scaled rows.
    """

    density: float = _DEFAULTS["density"]

    @property
    def name(self) -> str:
        """`ties`."""
        return "ties"

    def merged_rows(self, pool: SpreadPool, rank: int, generator: torch.Generator) -> MergedRows:
        """The rows; see `Parted.merged_rows`."""
        return MergedRows(*mean_of_prevailing(pool, Sparsity("least", self.density), self.election))
