from typing import Any

import pytest
import torch

from lego_ray.errors import InvalidOption
from lego_ray.numerics.kmeans.reweight import (
    norm_totals,
    output_scale,
    parameter_factors,
    row_norms,
)


def test_centroids_get_the_mean_norm_of_their_members_back() -> None:
    members = torch.tensor([[3.0, -4.0], [1.0, 0.0], [0.0, 2.0]])
    labels, counts = torch.tensor([0, 0, 1]), torch.tensor([2, 1])
    centroids = torch.tensor([[2.0, -2.0], [0.0, 2.0]], dtype=torch.float64)
    totals = norm_totals(row_norms(members, "inf"), labels, 2)
    by_inf = parameter_factors(centroids, totals, counts, "inf")
    assert by_inf.tolist() == [1.25, 1.0]  # (4 + 1) / 2 over 2
    totals = norm_totals(row_norms(members, "l2"), labels, 2)
    by_l2 = parameter_factors(centroids, totals, counts, "l2")
    assert by_l2[0].item() == pytest.approx((5 + 1) / 2 / 8**0.5)
    none = parameter_factors(centroids, totals, counts, "none")
    assert none.tolist() == [1.0, 1.0]


def test_a_zero_centroid_stays_zero() -> None:
    members = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    zero = torch.zeros(1, 2, dtype=torch.float64)
    labels = torch.zeros(2, dtype=torch.int64)
    totals = norm_totals(row_norms(members, "inf"), labels, 1)
    factors = parameter_factors(zero, totals, torch.tensor([2]), "inf")
    assert factors.tolist() == [1.0]


def test_output_scales() -> None:
    sizes: dict[str, Any] = {"source_rank": 4.0, "n_pool": 36, "n_clusters": 9}
    assert output_scale("source-rank", **sizes) == pytest.approx(2 / 3)
    assert output_scale("pool", **sizes) == 2.0
    assert output_scale("none", **sizes) == 1.0
    assert output_scale(0.3, **sizes) == 0.3
    for wrong in ("sum", "1.5", float("nan"), float("inf"), None):
        with pytest.raises(InvalidOption, match="source-rank"):
            output_scale(wrong, **sizes)  # type: ignore[arg-type]
