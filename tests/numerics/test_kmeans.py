import numpy as np
import pytest
import torch

from lego_ray.errors import ShapeMismatch
from lego_ray.numerics.kmeans.assign import ROWS, assign, distances_to_own
from lego_ray.numerics.kmeans.clustering import Clustering, best_restart, fill_empty, renumber
from lego_ray.numerics.kmeans.gram import distances_by_products, gram
from lego_ray.numerics.kmeans.lloyd import in_one_shard, search_sample
from lego_ray.numerics.kmeans.lloyd import lloyd as spread_lloyd
from lego_ray.numerics.kmeans.partial_sums import (
    centroids_of,
    column_quanta,
    fold,
    moved_sums,
    partial_sums,
)
from lego_ray.numerics.kmeans.search import search
from lego_ray.numerics.msu import lengths, squared_norms
from lego_ray.numerics.pool import Pool
from lego_ray.numerics.shards import shard as work
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


def in_order(points: torch.Tensor) -> torch.Tensor:
    """The rows longest first, so that positions in the pool are those in the tensor."""
    return points[torch.argsort(lengths(points), descending=True, stable=True)].contiguous()


def pool_of(points: torch.Tensor) -> Pool:
    rows = torch.arange(len(points))
    return Pool(points, points.shape[1] // 2, rows, torch.zeros_like(rows), lengths(points))


def lloyd(points: torch.Tensor, labels: torch.Tensor, max_iter: int, tol: float) -> Clustering:
    pool = in_one_shard(Shard.of(pool_of(points)))
    found, sums = spread_lloyd(pool, labels, max_iter, tol)
    again = partial_sums(points, found.labels, found.k, column_quanta(points))
    assert torch.equal(sums.sums, again.sums)  # they followed the labels
    assert torch.equal(sums.counts, again.counts)
    return found


def inertia_of(points: torch.Tensor, labels: torch.Tensor) -> float:
    total = 0.0
    for c in range(int(labels.max()) + 1):
        mine = points[labels == c].double()
        total += float(((mine - mine.mean(dim=0)) ** 2).sum())
    return total


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


def test_inertia_is_squared_and_of_the_labels_returned() -> None:
    points = in_order(cloud(200, 20))
    draws = torch.Generator().manual_seed(1)
    for max_iter in (1, 2, 300):  # stopped early, stopped by convergence
        found = lloyd(points, torch.arange(200) % 6, max_iter, 0.0)
        assert found.inertia == pytest.approx(inertia_of(points, found.labels), rel=1e-9)
        assert found.iterations <= max_iter
        found = search(gram(points), 6, 4, draws, max_iter, 0.0)
        assert found.inertia == pytest.approx(inertia_of(points, found.labels), rel=1e-9)


def test_the_search_ends_where_no_row_gains_by_moving_alone() -> None:
    """Against the inertia of every partition that differs in one row, computed from the points."""
    points = cloud(40, 30)
    found = search(gram(points), 4, 1, torch.Generator().manual_seed(1), 300, 0.0)
    for row in range(40):
        for c in range(4):
            labels = found.labels.clone()
            labels[row] = c
            if int(torch.bincount(labels, minlength=4).min()):
                assert inertia_of(points, labels) >= found.inertia * (1 - 1e-9)


def test_what_the_search_finds_stays_under_lloyds_steps() -> None:
    points = in_order(cloud(300, 60))
    found = search(gram(points), 8, 2, torch.Generator().manual_seed(1), 300, 0.0)
    after = lloyd(points, found.labels, 300, 0.0)
    assert torch.equal(after.labels, found.labels)
    assert after.iterations == 1


def test_lloyd_starts_from_a_sample_of_the_rows() -> None:
    points = in_order(cloud(300, 20, centers=5))
    labels = torch.full((300,), -1)
    start = search(gram(points[::3]), 5, 4, torch.Generator().manual_seed(1), 300, 0.0)
    labels[::3] = start.labels
    found = lloyd(points, labels, 300, 0.0)
    assert found.inertia == pytest.approx(inertia_of(points, found.labels), rel=1e-9)
    assert torch.equal(found.labels, lloyd(points, found.labels, 1, 0.0).labels)


@pytest.mark.parametrize(
    ("noise", "k", "is_wide"),
    [(0.3, 12, False), (1e-4, 12, True), (0.0, 12, True), (1e-5, 40, True)],
    ids=["loose", "tight", "duplicates", "more clusters than heaps"],
)
def test_rows_too_alike_for_rounding_are_searched_in_float64(
    noise: float, k: int, is_wide: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = in_order(cloud(12, 64, seed=1)[torch.arange(120) % 12] + noise * cloud(120, 64))
    pool, everything = in_one_shard(Shard.of(pool_of(points))), torch.arange(120)
    asked = []
    wide = work.all_products

    def counted(shard: Shard, at: torch.Tensor) -> torch.Tensor:
        asked.append(len(at))
        return wide(shard, at)

    monkeypatch.setattr(work, "all_products", counted)
    draws = torch.Generator().manual_seed(1)
    found, _ = search_sample(pool, everything, k, 4, draws, 300, 1e-6)
    assert bool(asked) == is_wide
    assert found.k == k
    assert found.inertia <= 1.01 * noise**2 * 120 * 64


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


def test_lloyd_never_leaves_a_cluster_empty() -> None:
    # Means in one corner of three tight heaps: the first assignment leaves most of them without rows.
    points = in_order(cloud(60, 4, centers=3))
    labels = torch.full((60,), -1)
    labels[torch.argsort(points[:, 0])[:8]] = torch.arange(8)
    run = lloyd(points, labels, 50, 0.0)
    assert torch.unique(run.labels).tolist() == list(range(8))


def test_more_rows_than_a_chunk() -> None:
    n = 2 * ROWS["cpu"] + 17
    points = in_order(cloud(n, 6, centers=4))
    run = lloyd(points, torch.arange(n) % 4, 50, 1e-6)
    assert run.labels.shape == (n,)
    assert run.k == 4


def test_clusters_are_numbered_by_their_first_row() -> None:
    assert renumber(torch.tensor([5, 5, 2, 9, 2, 5])).tolist() == [0, 0, 1, 2, 1, 0]


def test_of_equally_good_restarts_the_first_is_kept() -> None:
    def run(inertia: float, steps: int) -> Clustering:
        return Clustering(torch.zeros(1, dtype=torch.int64), inertia, steps)

    assert best_restart([run(2.0, 1), run(1.0 + 1e-13, 2), run(1.0, 3)]).iterations == 2
    assert best_restart([run(2.0, 1), run(1.01, 2), run(1.0, 3)]).iterations == 3
