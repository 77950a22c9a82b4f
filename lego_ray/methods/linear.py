"""The sum of the As and the sum of the Bs: PEFT's `linear`."""

from __future__ import annotations

from dataclasses import dataclass

from lego_ray.lazy import torch
from lego_ray.methods.parted import MergedRows
from lego_ray.methods.stacked import Stacked
from lego_ray.numerics.shards.spread import SpreadPool
from lego_ray.numerics.sparsify import Sparsity
from lego_ray.numerics.stacks import sum_by_rank


@dataclass(frozen=True, slots=True)
class Linear(Stacked):
    """`A' = sum_t sqrt(w_t s_t) A_t`, `B' = sum_t sqrt(w_t s_t) B_t`.

    PEFT's, but that a negative weight turns the sign of B where PEFT turns that of A, and that adapters
    of unlike ranks are merged as if padded with zeros where PEFT refuses them. One adapter comes back as
    it is.
    """

    @property
    def name(self) -> str:
        """`linear`."""
        return "linear"

    def merged_rows(self, pool: SpreadPool, rank: int, generator: torch.Generator) -> MergedRows:
        """The sums; see `Parted.merged_rows`."""
        return MergedRows(*sum_by_rank(pool, Sparsity()))
