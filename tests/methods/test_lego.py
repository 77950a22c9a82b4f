"""LoRA-LEGO against the plain-loop reference, its laws, and scikit-learn."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from lego_ray.errors import InvalidOption
from lego_ray.methods.base import SiteSolution
from lego_ray.methods.lego import Lego
from lego_ray.methods.registry import method_of
from lego_ray.numerics import costs
from lego_ray.numerics.kmeans import lloyd
from lego_ray.numerics.msu import lengths, msu_rows
from lego_ray.numerics.pool import Pool, pool_of
from lego_ray.numerics.shards.spread import LocalShards, SpreadPool
from tests import reference
from tests.numerics.factors import D_IN, D_OUT, pool_from, total, update, zoo

# Rows are float32 roundings of float64 values; an update is a product of two.
ROUNDING = 4 * 2.0**-23
# QR and SVD in float64 add nothing that float32 shows, sums over ranks do.
SVD_ROUNDING = 2.0**-19

ROUTES = ("gram", "msu")
GEOMETRIES: list[dict[str, Any]] = [
    {},
    {"normalize": True},
    {"distance": "rank-one"},
    {"distance": "rank-one", "normalize": True},
    {"basis": "svd"},
    {"balance": True},
    {"align_signs": True},
    {"basis": "svd", "distance": "rank-one"},
]


Adapters = list[tuple[torch.Tensor, torch.Tensor, float]]


def solve(
    adapters: Adapters, k: int, seed: int = 0, route: str = "gram", **options: object
) -> SiteSolution:
    method = Lego(**options)  # type: ignore[arg-type]
    pool = pool_from(adapters, method)
    return method.solve(pool, k, torch.Generator().manual_seed(seed), route)


def in_shards(
    adapters: Adapters, cuts: list[int], k: int, seed: int = 0, **options: object
) -> SiteSolution:
    """The same with the adapters in several shards, cut before these."""
    method = Lego(**options)  # type: ignore[arg-type]
    bounds = [0, *cuts, len(adapters)]
    shards = []
    for start, end in itertools.pairwise(bounds):
        rows = [(t, method.prepare(msu_rows(*adapters[t]), D_IN)) for t in range(start, end)]
        shards.append(method.shard(pool_of(rows, D_IN)))
    generator = torch.Generator().manual_seed(seed)
    return method.solve_spread(SpreadPool(LocalShards(shards)), k, generator)


def said(tensor: torch.Tensor | None) -> torch.Tensor:
    """What a method that clusters says of its clusters."""
    assert tensor is not None
    return tensor


def loops(adapters: Adapters, k: int, **options: object) -> reference.ReferenceMerge:
    arrays = [(a.numpy(), b.numpy(), s) for a, b, s in adapters]
    return reference.merge(arrays, k, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("parameter", "output", "normalize"),
    list(
        itertools.product(
            ["inf", "l2", "none"], ["source-rank", "pool", "none", 0.7], [False, True]
        )
    ),
)
def test_equals_the_plain_loop_reference(
    parameter: str, output: str | float, normalize: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lloyd, "LEAST_INERTIA", math.inf)  # the search is by float64 products
    adapters = zoo([4, 7, 2, 5], [2.0, 1.0, 0.5, 16 / 5**0.5])
    options: dict[str, Any] = {
        "n_init": 3,
        "parameter_reweight": parameter,
        "output_reweight": output,
        "normalize": normalize,
    }
    for k in (1, 3, 6):
        got = solve(adapters, k, seed=11, tol=0.0, **options)
        wanted = loops(adapters, k, seed=11, **options)
        assert said(got.labels).tolist() == wanted.labels
        assert got.inertia == pytest.approx(wanted.inertia, rel=1e-9)
        gap = np.abs(got.rows.double().numpy() - wanted.rows).max()
        assert gap <= 2.0**-23 * np.abs(wanted.rows).max()
        error = np.linalg.norm(wanted.update - total(adapters)) / np.linalg.norm(total(adapters))
        assert got.comparison.relative_error() == pytest.approx(error, rel=1e-5)


@pytest.mark.parametrize("options", GEOMETRIES, ids=str)
def test_one_adapter_at_its_own_rank_is_itself(options: dict[str, Any]) -> None:
    adapters = zoo([6])
    wanted = total(adapters)
    got = update(solve(adapters, 6, **options).rows, D_IN)
    assert np.linalg.norm(got - wanted) <= SVD_ROUNDING * np.linalg.norm(wanted)


def test_one_adapter_is_kept_row_by_row() -> None:
    adapters = zoo([6])
    rows = pool_from(adapters).rows
    for route in ROUTES:
        assert torch.equal(solve(adapters, 6, route=route).rows, rows)
        assert torch.equal(solve(adapters, 9, route=route).rows, rows)  # rank to spare unused


@pytest.mark.parametrize("options", GEOMETRIES, ids=str)
def test_k_of_the_whole_pool_is_the_exact_sum(options: dict[str, Any]) -> None:
    adapters = zoo([4, 7, 2], [2.0, 1.0, -0.5])
    options = {**options, "output_reweight": "none"}
    found = solve(adapters, 13, **options)
    wanted = total(adapters)
    assert np.linalg.norm(update(found.rows, D_IN) - wanted) <= SVD_ROUNDING * np.linalg.norm(
        wanted
    )
    assert found.comparison.relative_error() < 1e-6
    assert found.inertia == 0.0


@pytest.mark.parametrize("options", GEOMETRIES, ids=str)
def test_order_of_ranks_and_adapters_changes_no_bit(options: dict[str, Any]) -> None:
    adapters = zoo([4, 7, 2, 5])
    first = solve(adapters, 5, seed=3, **options)
    rng = np.random.default_rng(0)
    for _ in range(4):
        shuffled = []
        for t in rng.permutation(4):
            a, b, s = adapters[t]
            order = torch.tensor(rng.permutation(len(a)))
            shuffled.append((a[order], b[:, order], s))
        again = solve(shuffled, 5, seed=3, **options)
        assert torch.equal(again.rows, first.rows)
        assert torch.equal(said(again.labels), said(first.labels))
        assert torch.equal(said(again.distances), said(first.distances))


@pytest.mark.parametrize("options", GEOMETRIES, ids=str)
@pytest.mark.parametrize("k", [1, 2, 5, 18, 40])
def test_shapes_and_records(options: dict[str, Any], k: int) -> None:
    found = solve(zoo([4, 7, 2, 5]), k, **options)
    clusters = min(k, 18)
    assert found.rows.shape == (clusters, D_IN + D_OUT)
    assert found.rows.dtype == torch.float32
    assert torch.unique(said(found.labels)).tolist() == list(range(clusters))
    shares = torch.zeros(clusters, dtype=torch.float64).index_add_(
        0, said(found.labels), said(found.weights)
    )
    assert torch.allclose(shares, torch.ones_like(shares))
    assert found.inertia == pytest.approx(float((said(found.distances) ** 2).sum()))
    assert bool(torch.isfinite(found.rows).all())


IN_MSU_SPACE = [o for o in GEOMETRIES if o.get("distance") != "rank-one"]


@pytest.mark.slow
@pytest.mark.parametrize("options", IN_MSU_SPACE, ids=str)
@pytest.mark.parametrize("seed_rows", [40, 120])  # seeded from a sample, and from the whole pool
def test_routes_and_shards_give_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, seed_rows: int, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(costs, "SEED_ROWS", seed_rows)
    adapters = zoo([30, 12, 28, 7, 43])
    for k in (1, 7, 120, 200):
        wanted = solve(adapters, k, route="gram", **options)
        others = [solve(adapters, k, route="msu", **options)]
        others += [in_shards(adapters, cuts, k, **options) for cuts in ([], [2], [1, 2, 3, 4])]
        for found in others:
            assert torch.equal(found.rows, wanted.rows)
            assert torch.equal(said(found.labels), said(wanted.labels))
            assert torch.equal(found.adapters, wanted.adapters)
            assert torch.equal(found.ranks, wanted.ranks)
            assert found.iterations == wanted.iterations
            assert found.inertia == pytest.approx(wanted.inertia, rel=1e-9, abs=1e-9)
            assert found.comparison.relative_error() == pytest.approx(
                wanted.comparison.relative_error(), rel=1e-6, abs=1e-6
            )
        for found in others[1:]:  # shards do the same sums, so every figure is the same
            assert torch.equal(said(found.distances), said(others[0].distances))
            assert found.inertia == others[0].inertia


@pytest.mark.slow
def test_shards_in_another_order_give_the_same_bits() -> None:
    adapters = zoo([30, 12, 28, 7, 43])
    adapters.append(adapters[1])  # equal rows in two shards: their order is by digest, then as read
    first = in_shards(adapters, [2, 4], 9)
    again = in_shards(adapters[::-1], [3], 9)
    assert torch.equal(again.rows, first.rows)
    assert torch.equal(said(again.labels), said(first.labels))


def test_empty_clusters_are_filled_alike_in_shards() -> None:
    """Tight heaps and more clusters than heaps: restarts meet empty clusters on the way."""
    generator = torch.Generator().manual_seed(0)
    heaps = []
    for t in range(6):
        a = torch.randn(1, D_IN, generator=generator).repeat(20, 1)
        a += 1e-3 * torch.randn(20, D_IN, generator=generator)
        b = torch.randn(D_OUT, 20, generator=generator) * (1e-3 if t else 1.0)
        heaps.append((a, b, 2.0))
    wanted = solve(heaps, 30, route="gram", n_init=5)
    for cuts in ([], [1, 4]):
        found = in_shards(heaps, cuts, 30, n_init=5)
        assert torch.equal(said(found.labels), said(wanted.labels))
        assert torch.equal(found.rows, wanted.rows)


def test_seeds_from_a_sample_serve_a_large_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    adapters = zoo([30, 40, 50])
    monkeypatch.setattr(costs, "SEED_ROWS", 100)
    sampled = solve(adapters, 3)
    monkeypatch.setattr(costs, "SEED_ROWS", 120)
    whole = solve(adapters, 3)
    assert sampled.inertia is not None
    assert whole.inertia is not None
    assert sampled.inertia <= 1.05 * whole.inertia


def test_duplicates_leave_no_cluster_over() -> None:
    adapters = zoo([3]) * 4
    found = solve(adapters, 5)  # 12 rows, 3 distinct
    assert found.rows.shape[0] == 3
    assert found.inertia == pytest.approx(0.0, abs=1e-9)
    wanted = total(adapters[:1])
    assert np.linalg.norm(update(found.rows, D_IN) - wanted) <= ROUNDING * np.linalg.norm(wanted)


@pytest.mark.parametrize("options", GEOMETRIES, ids=str)
def test_untrained_ranks_do_no_harm(options: dict[str, Any]) -> None:
    adapters = zoo([4, 4])
    adapters[0][1][:, 1] = 0  # a zero half: B starts at zero
    adapters[1][0][2] = 0
    adapters[1][1][:, 2] = 0  # a zero MSU
    found = solve(adapters, 3, **options)
    assert bool(torch.isfinite(found.rows).all())
    nothing = [(torch.zeros_like(a), torch.zeros_like(b), s) for a, b, s in adapters]
    empty = solve(nothing, 3, **options)
    assert not bool(empty.rows.any())
    assert empty.comparison.relative_error() == 0.0


HARD = [(500, 200, 16, 0), (300, 64, 8, 8), (800, 40, 24, 12), (200, 300, 4, 0), (256, 96, 32, 200)]


@pytest.mark.slow
@pytest.mark.parametrize(("n", "d", "k", "centers"), HARD)
@pytest.mark.parametrize("n_init", [1, 10])
def test_inertia_is_never_worse_than_scikit_learn_by_a_hundredth(
    n: int, d: int, k: int, centers: int, n_init: int
) -> None:
    generator = torch.Generator().manual_seed(n + d)
    points = torch.randn(n, d, generator=generator)
    if centers:
        where = 2 * torch.randn(centers, d, generator=generator)
        points += where[torch.arange(n) % centers]
    rows = torch.arange(n)
    pool = Pool(points, d // 2, rows, torch.zeros(n, dtype=torch.int64), lengths(points))
    theirs = KMeans(k, n_init=n_init, random_state=0).fit(points.numpy()).inertia_
    for route in ROUTES:
        method = Lego(n_init=n_init)
        ours = method.solve(pool, k, torch.Generator().manual_seed(0), route).inertia
        assert ours <= 1.01 * theirs


def test_the_seed_matters_and_the_global_state_does_not() -> None:
    adapters = zoo([30, 40, 50])
    first = solve(adapters, 9, n_init=1, seed=1)
    torch.manual_seed(5)
    np.random.seed(5)
    assert torch.equal(solve(adapters, 9, n_init=1, seed=1).rows, first.rows)
    assert not torch.equal(solve(adapters, 9, n_init=1, seed=2).rows, first.rows)


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("n_init", 0, "--n-init"),
        ("max_iter", 0, "--max-iter"),
        ("tol", -1.0, "--tol"),
        ("distance", "cosine", "euclidean, rank-one"),
        ("basis", "qr", "raw, svd"),
        ("parameter_reweight", "l1", "inf, l2, none"),
        ("output_reweight", "sqrt", "source-rank"),
    ],
)
def test_options_are_checked(option: str, value: object, says: str) -> None:
    with pytest.raises(InvalidOption, match=says):
        method_of("lego", {option: value})


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(InvalidOption, match="Did you mean n_init"):
        method_of("lego", {"n_inti": 3})
    with pytest.raises(InvalidOption, match="lego"):
        method_of("leggo", {})


def test_costs_grow_with_what_they_pay_for() -> None:
    method = Lego()
    for route in ROUTES:
        small, large = (
            next(r.costs for r in method.routes(n, 2048, 2048, 16) if r.name == route)
            for n in (1000, 2000)
        )
        assert large.workspace_bytes > small.workspace_bytes
        assert large.seconds > small.seconds


def test_small_pools_go_by_products_and_large_ones_by_rows() -> None:
    assert Lego().routes(500, 2048, 2048, 16)[0].name == "gram"
    assert Lego().routes(50_000, 2048, 2048, 16)[0].name == "msu"
    assert [r.name for r in Lego(distance="rank-one").routes(50_000, 2048, 2048, 16)] == ["gram"]
