import numpy as np
import pytest
import torch

from lego_ray.numerics.kmeans.gram import gram_halves
from lego_ray.numerics.norms import UpdateComparison, compare_updates, squared_norm_of_sum
from tests.numerics.factors import D_IN, pool_from, update, zoo

# Everything is float64 over float32 inputs.
ROUNDING = 1e-10


@pytest.mark.parametrize(
    "ranks", [[2], [4, 4], [3, 8, 1], [40, 30]]
)  # below and above the dense cost
def test_norm_of_the_sum(ranks: list[int]) -> None:
    pool = pool_from(zoo(ranks))
    dense = float((update(pool.rows, D_IN) ** 2).sum())
    assert squared_norm_of_sum(pool.rows, D_IN) == pytest.approx(dense, rel=ROUNDING)
    by_gram = gram_halves(pool.rows, D_IN).squared_norm_of_sum()
    assert by_gram == pytest.approx(dense, rel=ROUNDING)


def test_errors_against_dense_matrices() -> None:
    pool, merged = pool_from(zoo([4, 6])), pool_from(zoo([3])).rows
    sources, ours = update(pool.rows, D_IN), update(merged, D_IN)
    found = compare_updates(merged, pool.rows, D_IN)
    for scale in (1.0, 0.5):
        wanted = np.linalg.norm(ours - scale * sources) / np.linalg.norm(scale * sources)
        assert found.relative_error(scale) == pytest.approx(wanted, rel=ROUNDING)
    wanted = np.linalg.norm(ours) / np.linalg.norm(sources)
    assert found.norm_ratio == pytest.approx(wanted, rel=ROUNDING)


def test_comparisons_add_up_over_sites() -> None:
    both = UpdateComparison(1.0, 2.0, 0.5) + UpdateComparison(3.0, 4.0, 1.5)
    assert (both.merged, both.total, both.inner) == (4.0, 6.0, 2.0)


def test_nothing_against_nothing_is_no_error() -> None:
    zero = torch.zeros(2, 5)
    found = compare_updates(zero, zero, 3)
    assert (found.relative_error(), found.norm_ratio) == (0.0, 1.0)
    something = compare_updates(torch.ones(1, 5), zero, 3)
    assert something.relative_error() == float("inf")
