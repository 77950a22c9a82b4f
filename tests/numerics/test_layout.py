import numpy as np
import pytest

from lego_ray.numerics.similarity.plane import plane


def cosines_of(vectors: np.ndarray) -> np.ndarray:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    products: np.ndarray = unit @ unit.T
    return products


def distances(points: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.linalg.norm(points[:, None] - points, axis=-1)
    return found


def test_what_lies_in_a_plane_keeps_its_distances() -> None:
    # Unit vectors with the same third coordinate lie in a plane.
    angles = np.random.default_rng(0).uniform(0, 2 * np.pi, 12)
    flat = np.stack([np.cos(angles), np.sin(angles), np.full(12, 0.7)], axis=1)
    cosines = cosines_of(flat)
    found = plane(cosines)
    wanted = np.sqrt(np.maximum(2 - 2 * cosines, 0))
    np.testing.assert_allclose(distances(found.points), wanted, atol=1e-7)
    np.testing.assert_allclose(found.points.mean(axis=0), 0, atol=1e-12)
    assert found.share == pytest.approx(1)


def test_families_lie_apart_and_the_share_is_that_of_two_axes() -> None:
    rng = np.random.default_rng(1)
    centers = rng.normal(size=(2, 40))
    vectors = np.repeat(centers, 5, axis=0) + 0.3 * rng.normal(size=(10, 40))
    found = plane(cosines_of(vectors))
    apart = distances(found.points)
    assert apart[:5, :5].max() < apart[:5, 5:].min()
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    singular = np.linalg.svd(unit - unit.mean(axis=0), compute_uv=False)
    wanted = np.square(singular[:2]).sum() / np.square(singular).sum()
    assert found.share == pytest.approx(wanted)


def test_an_order_of_adapters_turns_the_plane_at_most() -> None:
    vectors = np.random.default_rng(2).normal(size=(9, 30))
    order = np.random.default_rng(3).permutation(9)
    one, other = plane(cosines_of(vectors)), plane(cosines_of(vectors[order]))
    np.testing.assert_allclose(one.points[order], other.points, atol=1e-9)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_or_equal_adapters_are_laid_out_too(count: int) -> None:
    same = plane(np.ones((count, count)))
    assert not same.points.any()
    assert same.share == 1
    apart = plane(np.eye(count))
    assert apart.points.shape == (count, 2)
    assert np.isfinite(apart.points).all()
