import torch

from lego_ray.numerics.kmeans.gram import gram
from lego_ray.numerics.kmeans.seeding import gram_distances
from lego_ray.numerics.kmeans.seeding import kmeans_plus_plus as over_distances


def kmeans_plus_plus(
    products: torch.Tensor, k: int, n_init: int, draws: torch.Generator
) -> torch.Tensor:
    return over_distances(gram_distances(products), len(products), k, n_init, draws)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_seeds_are_distinct_rows() -> None:
    points = torch.randn(80, 5, generator=generator())
    for restart in kmeans_plus_plus(gram(points), 12, 7, generator()):
        assert len(set(restart.tolist())) == 12


def test_the_generator_alone_fixes_the_seeds() -> None:
    products = gram(torch.randn(80, 5, generator=generator()))
    first = kmeans_plus_plus(products, 5, 3, generator(4))
    torch.manual_seed(99)
    assert torch.equal(kmeans_plus_plus(products, 5, 3, generator(4)), first)
    assert not torch.equal(kmeans_plus_plus(products, 5, 3, generator(5)), first)


def test_no_more_seeds_than_distinct_points() -> None:
    points = torch.randn(4, 6, generator=generator())[torch.arange(40) % 4] * 1e3
    seeds = kmeans_plus_plus(gram(points), 9, 5, generator())
    assert seeds.shape == (5, 4)
    for restart in seeds:
        assert len({i % 4 for i in restart.tolist()}) == 4


def test_one_heap_one_seed() -> None:
    points = torch.ones(10, 3)
    assert kmeans_plus_plus(gram(points), 4, 2, generator()).shape == (2, 1)


def test_far_heaps_each_get_a_seed() -> None:
    # D^2 sampling finds heaps that are far apart whatever their size; uniform sampling would not.
    points = torch.randn(500, 3, generator=generator()) * 0.01
    points[490:495] += 100
    points[495:] -= 100
    for restart in kmeans_plus_plus(gram(points), 3, 20, generator()):
        heaps = {0 if i < 490 else 1 if i < 495 else 2 for i in restart.tolist()}
        assert heaps == {0, 1, 2}


def test_the_first_seed_is_uniform() -> None:
    counts = torch.zeros(10)
    products = gram(torch.randn(10, 3, generator=generator()))
    for seed in range(30):
        first = kmeans_plus_plus(products, 1, 100, generator(seed))[:, 0]
        counts += torch.bincount(first, minlength=10)
    # 3,000 draws over 10 rows: five standard deviations of a binomial are 82.
    assert bool(((counts - 300).abs() < 82).all())
