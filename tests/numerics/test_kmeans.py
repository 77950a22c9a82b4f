import numpy as np
import pytest
import torch

from lego_ray.errors import ShapeMismatch
from lego_ray.numerics.kmeans.assign import ROWS, assign, distances_to_own
from lego_ray.numerics.kmeans.clustering import Clustering, best_restart, fill_empty, renumber
from lego_ray.numerics.kmeans.gram import distances_by_products, gram, gram_kmeans
from lego_ray.numerics.kmeans.lloyd import in_one_shard
from lego_ray.numerics.kmeans.lloyd import lloyd as spread_lloyd
from lego_ray.numerics.kmeans.partial_sums import (
    centroids_of,
    column_quanta,
    fold,
    moved_sums,
    partial_sums,
)
from lego_ray.numerics.kmeans.seeding import gram_distances, kmeans_plus_plus
from lego_ray.numerics.msu import lengths, squared_norms
from lego_ray.numerics.pool import Pool
from lego_ray.numerics.shards.shard import Shard

# Sums are exact on a grid of 2^-43 of a column's largest value, float64 rounds the mean once more.
GRID = 2.0**-40


def cloud(n: int, d: int, seed: int = 0, centers: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(n, d, generator=generator)
    if centers:
        where = 4 * torch.randn(centers, d, generator=generator)
        points += where[torch.randint(centers, (n,), generator=generator)]
    return points


def seeds_of(points: torch.Tensor, k: int, n_init: int = 4) -> torch.Tensor:
    distances = gram_distances(gram(points))
    return kmeans_plus_plus(distances, len(points), k, n_init, torch.Generator().manual_seed(1))


def in_order(points: torch.Tensor) -> torch.Tensor:
    """The rows longest first, so that positions in the pool are those in the tensor."""
    return points[torch.argsort(lengths(points), descending=True, stable=True)].contiguous()


def lloyd(points: torch.Tensor, seeds: torch.Tensor, max_iter: int, tol: float) -> Clustering:
    rows = torch.arange(len(points))
    pool = Pool(points, points.shape[1] // 2, rows, torch.zeros_like(rows), lengths(points))
    return spread_lloyd(in_one_shard(Shard.of(pool)), seeds, max_iter, tol)


def test_partial_sums_fold_to_the_same_bits_in_any_chunks_and_order() -> None:
    points = cloud(3000, 37) * torch.logspace(-6, 3, 37)
    labels = torch.arange(3000) % 7
    quanta = column_quanta(points)
    whole = partial_sums(points, labels, 7, quanta)
    rng = np.random.default_rng(0)
    for _ in range(5):
        cuts = np.sort(rng.choice(3000, 9, replace=False))
        pieces = [torch.tensor(p) for p in np.split(rng.permutation(3000), cuts)]
        parts = [partial_sums(points[p], labels[p], 7, quanta) for p in pieces]
        folded = fold(rng.permutation(np.array(parts, dtype=object)))
        assert torch.equal(folded.sums, whole.sums)
        assert torch.equal(folded.counts, whole.counts)


def test_partial_sums_are_the_sums() -> None:
    points = cloud(500, 11)
    labels = torch.arange(500) % 3
    sums = partial_sums(points, labels, 3, column_quanta(points)).sums
    for c in range(3):
        wanted = points[labels == c].double().sum(dim=0)
        assert torch.allclose(sums[c], wanted, rtol=0, atol=GRID * 500 * float(points.abs().max()))


def test_sums_follow_moved_rows_to_the_bits_of_summing_anew() -> None:
    points = cloud(900, 31) * torch.logspace(-4, 4, 31)
    quanta = column_quanta(points)
    rng = np.random.default_rng(1)
    labels = torch.tensor(rng.integers(0, 5, 900))
    sums = partial_sums(points, labels, 5, quanta)
    for _ in range(6):
        after = torch.where(torch.tensor(rng.random(900) < 0.1), labels.roll(7), labels)
        sums.add_(moved_sums(points, labels, after, 5, quanta))
        labels = after
        again = partial_sums(points, labels, 5, quanta)
        assert torch.equal(sums.sums, again.sums)
        assert torch.equal(sums.counts, again.counts)


def test_partial_sums_refuse_what_does_not_fit() -> None:
    points = cloud(5, 3)
    with pytest.raises(ShapeMismatch, match="labels"):
        partial_sums(points, torch.zeros(4, dtype=torch.int64), 1, column_quanta(points))
    with pytest.raises(ShapeMismatch, match="no partial sums"):
        fold([])


def test_a_cluster_of_one_is_its_row_to_the_last_bit() -> None:
    points = cloud(6, 50) * torch.logspace(-30, 30, 50)
    centroids = centroids_of(points, torch.tensor([0, 1, 2, 3, 4, 5]))
    assert torch.equal(centroids.float(), points)


def test_assignment_is_by_float64_distance_where_float32_cannot_tell() -> None:
    # Two centroids a hair apart, far from the origin: the float32 products round the difference away.
    base = 100 * cloud(1, 4000, seed=3)[0].double()
    step = torch.zeros(4000, dtype=torch.float64)
    step[17] = 1e-4
    centroids = torch.stack([base + step, base - step])
    points = torch.stack([base.float()] * 400)
    points[:, 17] += torch.linspace(-1e-2, 1e-2, 400)
    labels = assign(points, squared_norms(points), centroids[None])[0]
    distances = distances_to_own(points, labels, centroids)
    by_loop = [
        int(np.argmin([float(((p.double() - c) ** 2).sum()) for c in centroids])) for p in points
    ]
    assert labels.tolist() == by_loop
    assert 0 in by_loop
    assert 1 in by_loop
    assert bool((distances >= 0).all())


def test_ties_go_to_the_lowest_index() -> None:
    points = torch.tensor([[1.0, 0.0], [1.0, 5.0]])
    centroids = torch.tensor([[2.0, 0.0], [0.0, 0.0], [2.0, 0.0]], dtype=torch.float64)
    labels = assign(points, squared_norms(points), centroids[None])[0]
    assert labels.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("n", "d", "k", "centers"), [(300, 60, 8, 8), (400, 30, 13, 0), (90, 400, 5, 0)]
)
def test_gram_and_msu_space_take_the_same_steps(n: int, d: int, k: int, centers: int) -> None:
    points = in_order(cloud(n, d, centers=centers))
    seeds = seeds_of(points, k)
    by_gram = gram_kmeans(gram(points), seeds, 300, 1e-9)
    by_rows = lloyd(points, seeds, 300, 1e-9)
    assert torch.equal(by_gram.labels, by_rows.labels)
    assert by_gram.iterations == by_rows.iterations
    assert by_gram.inertia == pytest.approx(by_rows.inertia, rel=1e-12)


@pytest.mark.parametrize("route", ["gram", "rows"])
def test_inertia_is_squared_and_of_the_labels_returned(route: str) -> None:
    points = in_order(cloud(200, 20))
    seeds = seeds_of(points, 6)
    for max_iter in (1, 2, 300):  # stopped early, stopped by convergence
        if route == "gram":
            found = gram_kmeans(gram(points), seeds, max_iter, 0.0)
        else:
            found = lloyd(points, seeds, max_iter, 0.0)
        by_loop = 0.0
        for c in range(6):
            mine = points[found.labels == c].double()
            by_loop += float(((mine - mine.mean(dim=0)) ** 2).sum())
        assert found.inertia == pytest.approx(by_loop, rel=1e-9)
        assert found.iterations <= max_iter


def test_distances_agree_between_routes() -> None:
    points = cloud(150, 20)
    labels = renumber(torch.arange(150) % 11)
    labels[3] = 11  # alone
    by_gram = distances_by_products(gram(points), labels)
    by_rows = distances_to_own(points, labels, centroids_of(points, labels)).sqrt()
    assert torch.allclose(by_gram, by_rows, rtol=1e-6, atol=1e-7)
    assert by_gram[3] == by_rows[3] == 0


def test_an_empty_cluster_takes_the_farthest_point_and_not_the_origin() -> None:
    labels = torch.tensor([0, 0, 0, 2, 2])
    distances = torch.tensor([1.0, 9.0, 2.0, 8.0, 3.0], dtype=torch.float64)
    assert fill_empty(labels, distances, 4).tolist() == [0, 1, 0, 3, 2]
    assert labels.tolist() == [0, 0, 0, 2, 2]


def test_a_row_alone_in_its_cluster_is_not_taken_from_it() -> None:
    labels = torch.tensor([0, 1, 1])
    distances = torch.tensor([100.0, 1.0, 2.0], dtype=torch.float64)
    assert fill_empty(labels, distances, 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize("route", ["gram", "rows"])
def test_lloyd_never_leaves_a_cluster_empty(route: str) -> None:
    # Seeds in one corner of three tight heaps: the first assignment leaves most of them without rows.
    points = in_order(cloud(60, 4, centers=3))
    worst = torch.stack([torch.argsort(points[:, 0])[:8]])
    run = (
        gram_kmeans(gram(points), worst, 50, 0.0)
        if route == "gram"
        else lloyd(points, worst, 50, 0.0)
    )
    assert torch.unique(run.labels).tolist() == list(range(8))


def test_more_rows_than_a_chunk() -> None:
    n = 2 * ROWS["cpu"] + 17
    points = cloud(n, 6, centers=4)
    run = lloyd(points, seeds_of(points[:500], 4), 50, 1e-6)
    assert run.labels.shape == (n,)
    assert run.k == 4


def test_clusters_are_numbered_by_their_first_row() -> None:
    assert renumber(torch.tensor([5, 5, 2, 9, 2, 5])).tolist() == [0, 0, 1, 2, 1, 0]


def test_of_equally_good_restarts_the_first_is_kept() -> None:
    def run(inertia: float, steps: int) -> Clustering:
        return Clustering(torch.zeros(1, dtype=torch.int64), inertia, steps)

    assert best_restart([run(2.0, 1), run(1.0 + 1e-13, 2), run(1.0, 3)]).iterations == 2
    assert best_restart([run(2.0, 1), run(1.01, 2), run(1.0, 3)]).iterations == 3
