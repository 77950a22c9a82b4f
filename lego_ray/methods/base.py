"""What every merge method is: a pool in, a factor pair of bounded rank out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lego_ray.numerics.lowrank import UpdateComparison
from lego_ray.numerics.pool import Pool


@dataclass(frozen=True, slots=True)
class SiteSolution:
    """A merged site, and which MSU went where.

    Attributes:
        rows: Rows `[a' ; b']` of the merged factor pair, shape (k', d), float32, k' <= k.
        labels: Row of `rows` each MSU of the pool went to, shape (n,), int64.
        distances: Distance of each MSU to its centroid before reweighting, in the space clustered,
            shape (n,), float64.
        weights: Share each MSU has in its centroid, shape (n,), float64.
        inertia: Sum of the squared distances.
        iterations: Lloyd steps of the restart kept.
        comparison: The merged update against the sum of the sources.
    """

    rows: Tensor
    labels: Tensor
    distances: Tensor
    weights: Tensor
    inertia: float
    iterations: int
    comparison: UpdateComparison


class MergeMethod(Protocol):
    """A merge method with its options as attributes, each checked when it is made."""

    @property
    def name(self) -> str:
        """The name it is registered and recorded under."""

    def solve(self, pool: Pool, rank: int, generator: torch.Generator) -> SiteSolution:
        """Merges one site.

        Args:
            pool: The site's MSUs.
            rank: k, the most rank-one terms the merged site may have.
            generator: CPU generator of this site; the only source of randomness.
        """

    def workspace_bytes(self, n: int, d: int, rank: int) -> int:
        """Most memory `solve` takes besides the pool, in bytes, for n MSUs of width d."""
