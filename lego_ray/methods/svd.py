"""The truncated singular value decomposition of the sum: PEFT's `svd`, from the factors."""

from __future__ import annotations

from dataclasses import dataclass

from lego_ray.lazy import Tensor
from lego_ray.methods.of_sum import OfSum
from lego_ray.numerics.decompositions.truncated_svd import UpdateSvd
from lego_ray.numerics.norms import UpdateComparison


@dataclass(frozen=True, slots=True)
class Svd(OfSum):
    """The adapter of rank k nearest to `sum_t w_t s_t B_t A_t`, which it is if k is at least n.

    Both halves of a merged rank are equally long, as those of trained adapters nearly are; PEFT leaves
    the singular values with B.
    """

    @property
    def name(self) -> str:
        """`svd`."""
        return "svd"

    def terms(self, found: UpdateSvd, rank: int) -> tuple[Tensor, UpdateComparison]:
        """The first k; see `OfSum.terms`."""
        return found.rows(rank), found.compare(rank)
