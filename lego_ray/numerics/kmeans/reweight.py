"""The two reweightings of LoRA-LEGO (arXiv 2409.16167, section 3.3)."""

from __future__ import annotations

import math
from typing import Literal

from lego_ray.errors import InvalidOption
from lego_ray.lazy import Tensor, torch
from lego_ray.numerics.msu import squared_norms

ParameterNorm = Literal["inf", "l2", "none"]


def row_norms(rows: Tensor, norm: ParameterNorm) -> Tensor:
    """Norm of each row.

    Args:
        rows: Shape (n, d).
        norm: `inf` for the largest magnitude, `l2` for the Euclidean length.

    Returns:
        Shape (n,), float64.
    """
    if norm == "inf":
        # Two passes that run at the speed of memory; aminmax along rows takes six times as long.
        return torch.maximum(rows.amax(dim=1), -rows.amin(dim=1)).double()
    return squared_norms(rows).sqrt()


def norm_totals(member_norms: Tensor, labels: Tensor, k: int) -> Tensor:
    """Sum of the norms of each cluster's members.

    Args:
        member_norms: `row_norms` of the pool, shape (n,), float64.
        labels: Cluster of each row of the pool, shape (n,), int64.
        k: Number of clusters.

    Returns:
        Shape (k,), float64.
    """
    totals = torch.zeros(k, dtype=torch.float64, device=member_norms.device)
    return totals.index_add_(0, labels, member_norms)


def parameter_factors(
    centroids: Tensor, totals: Tensor, counts: Tensor, norm: ParameterNorm
) -> Tensor:
    """Factors that give each centroid the mean norm of its members: `mean ||m|| / ||mu||`.

    A mean of unlike vectors is shorter than they are; this undoes that decay.

    Args:
        centroids: Shape (k, d), float64.
        totals: `norm_totals` of the clusters, shape (k,), float64.
        counts: Members of each, shape (k,), int64, none 0.
        norm: Which norm; `none` leaves the centroids as they are.

    Returns:
        Shape (k,), float64; 1 for a zero centroid, which stays zero.
    """
    if norm == "none":
        return torch.ones(centroids.shape[0], dtype=torch.float64, device=centroids.device)
    wanted = totals / counts
    have = row_norms(centroids, norm)
    return torch.where(have > 0, wanted / have, 1.0)


def output_scale(choice: str | float, *, source_rank: float, n_pool: int, n_clusters: int) -> float:
    """Factor on a site's merged update, against growth of its variance.

    Args:
        choice: `source-rank` for `sqrt(r / k)` with r the mean source rank at the site (TARA, SMoEA),
            `pool` for `sqrt(n / k)` (CtM), `none` for 1, or the factor itself.
        source_rank: r.
        n_pool: n, the rows of the site's pool.
        n_clusters: k, the rank-one terms actually made at the site.

    Raises:
        InvalidOption: If the choice is none of these.
    """
    if choice == "source-rank":
        return float((source_rank / n_clusters) ** 0.5)
    if choice == "pool":
        return float((n_pool / n_clusters) ** 0.5)
    if choice == "none":
        return 1.0
    if isinstance(choice, int | float) and math.isfinite(choice):
        return float(choice)
    raise InvalidOption(
        "--output-reweight",
        f"{choice!r} is not one of source-rank, pool, none or a number",
    )
