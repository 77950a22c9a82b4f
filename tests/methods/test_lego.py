"""LoRA-LEGO against the plain-loop reference, its laws, and scikit-learn."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from lego_ray.errors import InvalidOption
from lego_ray.methods import lego as module
from lego_ray.methods.base import SiteSolution
from lego_ray.methods.lego import Lego
from lego_ray.methods.registry import method_of
from lego_ray.numerics.pool import Pool
from tests import reference
from tests.numerics.factors import D_IN, pool_from, total, update, zoo

# Rows are float32 roundings of float64 values; an update is a product of two.
ROUNDING = 4 * 2.0**-23
# QR and SVD in float64 add nothing that float32 shows, sums over ranks do.
SVD_ROUNDING = 2.0**-19

GEOMETRIES = [
    {},
    {"normalise": True},
    {"distance": "rank-one"},
    {"distance": "rank-one", "normalise": True},
    {"basis": "svd"},
    {"balance": True},
    {"align_signs": True},
    {"basis": "svd", "distance": "rank-one"},
]


def solve(pool: Pool, k: int, seed: int = 0, **options: object) -> SiteSolution:
    return Lego(**options).solve(pool, k, torch.Generator().manual_seed(seed))  # type: ignore[arg-type]


def loops(adapters: list, k: int, **options: object) -> reference.ReferenceMerge:
    arrays = [(a.numpy(), b.numpy(), s) for a, b, s in adapters]
    return reference.merge(arrays, k, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("parameter", "output", "normalise"),
    list(
        itertools.product(
            ["inf", "l2", "none"], ["source-rank", "pool", "none", 0.7], [False, True]
        )
    ),
)
def test_equals_the_plain_loop_reference(
    parameter: str, output: str | float, normalise: bool
) -> None:
    adapters = zoo([4, 7, 2, 5], [2.0, 1.0, 0.5, 16 / 5**0.5])
    options = {
        "n_init": 3,
        "parameter_reweight": parameter,
        "output_reweight": output,
        "normalise": normalise,
    }
    for k in (1, 3, 6):
        got = solve(pool_from(adapters), k, seed=11, tol=0.0, **options)
        wanted = loops(adapters, k, seed=11, **options)
        assert got.labels.tolist() == wanted.labels
        assert got.inertia == pytest.approx(wanted.inertia, rel=1e-9)
        gap = np.abs(got.rows.double().numpy() - wanted.rows).max()
        assert gap <= 2.0**-23 * np.abs(wanted.rows).max()
        error = np.linalg.norm(wanted.update - total(adapters)) / np.linalg.norm(total(adapters))
        assert got.comparison.relative_error() == pytest.approx(error, rel=1e-5)


@pytest.mark.parametrize("options", GEOMETRIES, ids=str)
def test_one_adapter_at_its_own_rank_is_itself(options: dict) -> None:
    adapters = zoo([6])
    wanted = total(adapters)
    got = update(solve(pool_from(adapters), 6, **options).rows, D_IN)
    assert np.linalg.norm(got - wanted) <= SVD_ROUNDING * np.linalg.norm(wanted)


def test_one_adapter_is_kept_row_by_row() -> None:
    pool = pool_from(zoo([6]))
    assert torch.equal(solve(pool, 6).rows, pool.rows)
    assert torch.equal(solve(pool, 9).rows, pool.rows)  # rank to spare stays unused


@pytest.mark.parametrize("options", GEOMETRIES, ids=str)
def test_k_of_the_whole_pool_is_the_exact_sum(options: dict) -> None:
    adapters = zoo([4, 7, 2], [2.0, 1.0, -0.5])
    options = {**options, "output_reweight": "none"}
    found = solve(pool_from(adapters), 13, **options)
    wanted = total(adapters)
    assert np.linalg.norm(update(found.rows, D_IN) - wanted) <= SVD_ROUNDING * np.linalg.norm(
        wanted
    )
    assert found.comparison.relative_error() < 1e-6
    assert found.inertia == 0.0


@pytest.mark.parametrize("options", GEOMETRIES, ids=str)
def test_order_of_ranks_and_adapters_changes_no_bit(options: dict) -> None:
    adapters = zoo([4, 7, 2, 5])
    first = solve(pool_from(adapters), 5, seed=3, **options)
    rng = np.random.default_rng(0)
    for _ in range(4):
        shuffled = []
        for t in rng.permutation(4):
            a, b, s = adapters[t]
            order = torch.tensor(rng.permutation(len(a)))
            shuffled.append((a[order], b[:, order], s))
        again = solve(pool_from(shuffled), 5, seed=3, **options)
        assert torch.equal(again.rows, first.rows)
        assert torch.equal(again.labels, first.labels)
        assert torch.equal(again.distances, first.distances)


@pytest.mark.parametrize("options", GEOMETRIES, ids=str)
@pytest.mark.parametrize("k", [1, 2, 5, 18, 40])
def test_shapes_and_records(options: dict, k: int) -> None:
    pool = pool_from(zoo([4, 7, 2, 5]))
    found = solve(pool, k, **options)
    clusters = min(k, 18)
    assert found.rows.shape == (clusters, pool.rows.shape[1])
    assert found.rows.dtype == torch.float32
    assert torch.unique(found.labels).tolist() == list(range(clusters))
    shares = torch.zeros(clusters, dtype=torch.float64).index_add_(0, found.labels, found.weights)
    assert torch.allclose(shares, torch.ones_like(shares))
    assert found.inertia == pytest.approx(float((found.distances**2).sum()))
    assert bool(torch.isfinite(found.rows).all())


@pytest.mark.parametrize("seed_rows", [40, 120])  # seeded from a sample, and from the whole pool
def test_large_pools_go_through_msu_space_to_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, seed_rows: int
) -> None:
    monkeypatch.setattr(module, "SEED_ROWS", seed_rows)
    pool = pool_from(zoo([30, 40, 50]))
    for options in ({}, {"normalise": True}):
        by_gram = solve(pool, 1, **options), solve(pool, 7, **options)
        with monkeypatch.context() as patch:
            patch.setattr(module, "GRAM_ROWS", 10)
            by_rows = solve(pool, 1, **options), solve(pool, 7, **options)
        for ours, theirs in zip(by_gram, by_rows, strict=True):
            assert torch.equal(ours.labels, theirs.labels)
            assert torch.equal(ours.rows, theirs.rows)
            # MSU space normalises into float32 rows, the Gram matrix in float64.
            rounding = 2.0**-22 if options else 1e-9
            assert theirs.inertia == pytest.approx(ours.inertia, rel=rounding)


def test_seeds_from_a_sample_serve_a_large_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = pool_from(zoo([30, 40, 50]))
    monkeypatch.setattr(module, "SEED_ROWS", 100)
    sampled = solve(pool, 3)
    monkeypatch.setattr(module, "SEED_ROWS", 120)
    assert sampled.inertia <= 1.05 * solve(pool, 3).inertia


def test_duplicates_leave_no_cluster_over() -> None:
    adapters = zoo([3]) * 4
    found = solve(pool_from(adapters), 5)  # 12 rows, 3 distinct
    assert found.rows.shape[0] == 3
    assert found.inertia == pytest.approx(0.0, abs=1e-9)
    wanted = total(adapters[:1])
    assert np.linalg.norm(update(found.rows, D_IN) - wanted) <= ROUNDING * np.linalg.norm(wanted)


@pytest.mark.parametrize("options", GEOMETRIES, ids=str)
def test_untrained_ranks_do_no_harm(options: dict) -> None:
    adapters = zoo([4, 4])
    adapters[0][1][:, 1] = 0  # a zero half: B starts at zero
    adapters[1][0][2] = 0
    adapters[1][1][:, 2] = 0  # a zero MSU
    found = solve(pool_from(adapters), 3, **options)
    assert bool(torch.isfinite(found.rows).all())
    nothing = [(torch.zeros_like(a), torch.zeros_like(b), s) for a, b, s in adapters]
    empty = solve(pool_from(nothing), 3, **options)
    assert not bool(empty.rows.any())
    assert empty.comparison.relative_error() == 0.0


HARD = [(500, 200, 16, 0), (300, 64, 8, 8), (800, 40, 24, 12), (200, 300, 4, 0), (256, 96, 32, 200)]


@pytest.mark.parametrize(("n", "d", "k", "centres"), HARD)
@pytest.mark.parametrize("n_init", [1, 10])
def test_inertia_is_never_worse_than_scikit_learn_by_a_hundredth(
    n: int, d: int, k: int, centres: int, n_init: int
) -> None:
    generator = torch.Generator().manual_seed(n + d)
    points = torch.randn(n, d, generator=generator)
    if centres:
        where = 2 * torch.randn(centres, d, generator=generator)
        points += where[torch.arange(n) % centres]
    rows = torch.arange(n)
    pool = Pool(points, d // 2, rows, torch.zeros(n, dtype=torch.int64))
    theirs = KMeans(k, n_init=n_init, random_state=0).fit(points.numpy()).inertia_
    ours = solve(pool, k, n_init=n_init).inertia
    assert ours <= 1.01 * theirs


def test_the_seed_matters_and_the_global_state_does_not() -> None:
    pool = pool_from(zoo([30, 40, 50]))
    first = solve(pool, 9, n_init=1, seed=1)
    torch.manual_seed(5)
    np.random.seed(5)
    assert torch.equal(solve(pool, 9, n_init=1, seed=1).rows, first.rows)
    assert not torch.equal(solve(pool, 9, n_init=1, seed=2).rows, first.rows)


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


def test_workspace_grows_with_what_it_pays_for() -> None:
    method = Lego()
    assert method.workspace_bytes(2000, 4096, 16) > method.workspace_bytes(1000, 4096, 16)
    assert method.workspace_bytes(1000, 4096, 16) >= 8 * 1000 * 1000 * 2
