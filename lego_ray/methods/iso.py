"""The sum with all its directions equally strong: Iso-C (arXiv 2502.04959) at rank k."""

from __future__ import annotations

from dataclasses import dataclass

from lego_ray.lazy import Tensor, torch
from lego_ray.methods.of_sum import OfSum
from lego_ray.numerics.decompositions.truncated_svd import UpdateSvd
from lego_ray.numerics.norms import UpdateComparison


@dataclass(frozen=True, slots=True)
class Iso(OfSum):
    """`m sum_i u_i v_i^T` over the first k singular directions of the sum, m the mean of their values.

    The paper takes the mean over the full rank of a dense sum. A sum of adapters has few directions, so
    it is taken here over those that are kept, which keeps their nuclear norm; directions that are
    rounding and nothing else are not lifted. One adapter does not come back: its values are evened out.
    """

    @property
    def name(self) -> str:
        """`iso`."""
        return "iso"

    def terms(self, found: UpdateSvd, rank: int) -> tuple[Tensor, UpdateComparison]:
        """The first k that are more than rounding; see `OfSum.terms`."""
        kept = min(rank, max(found.n_terms, 1))  # one of zeros where there is none
        first = found.s[:kept]
        mean = float(first.mean())
        growth = torch.where(first > 0, mean / first, 0.0).sqrt()[:, None]
        comparison = UpdateComparison(
            merged=kept * mean**2,
            total=float(found.s.square().sum()),
            inner=mean * float(first.sum()),
        )
        return found.rows(kept) * growth, comparison
