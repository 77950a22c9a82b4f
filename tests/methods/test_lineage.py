"""Which MSUs each merged rank is made of, against dense float64 computations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lego_ray.methods.base import SiteSolution
from lego_ray.methods.names import METHODS
from lego_ray.methods.parted import Parted
from lego_ray.methods.registry import method_of
from lego_ray.numerics.lineage import GRID, NAMED, lineage_of_products
from tests.methods.solving import Adapters, in_shards, solve
from tests.methods.test_laws import ALL_STAYS, shuffled
from tests.methods.test_singular import signed
from tests.numerics.factors import factors, total, zoo

# A merged row is rounded to float32, which turns a singular vector by 2^-24 or so of what is in the
# others; the last of those here are a hundredth of the first.
TOLERANCE = 1e-4
Shares = NDArray[np.float64]


def msus(adapters: Adapters) -> list[tuple[int, int, Shares]]:
    """Adapter, rank and dense update of each MSU."""
    return [
        (t, i, s * torch.outer(b[:, i].double(), a[i].double()).numpy())
        for t, (a, b, s) in enumerate(adapters)
        for i in range(len(a))
    ]


def by_projection(adapters: Adapters, k: int) -> Shares:
    """`u_i^T C_j v_i / s_i` for the sum of the updates, shape (n, k)."""
    u, s, vt = np.linalg.svd(total(adapters))
    k = min(k, int((s > 1e-6 * s[0]).sum()))
    return np.array([[u[:, i] @ c @ vt[i] / s[i] for i in range(k)] for *_, c in msus(adapters)])


def check(adapters: Adapters, found: SiteSolution, wanted: Shares) -> None:
    """Holds a lineage against all shares: what is named, what is not, and that nothing is lost."""
    lineage = found.lineage
    assert lineage is not None
    row_of = {(t, i): row for row, (t, i, _) in enumerate(msus(adapters))}
    rows = [row_of[int(found.adapters[at]), int(found.ranks[at])] for at in lineage.at]
    named = np.zeros(wanted.shape, bool)
    named[rows, lineage.ranks.numpy()] = True
    assert named.sum() == len(rows)  # each once
    assert np.allclose(lineage.shares, wanted[rows, lineage.ranks.numpy()], atol=TOLERANCE)
    n, k = wanted.shape
    sizes = np.abs(wanted)
    for i in range(k):
        mine, others = sizes[named[:, i], i], sizes[~named[:, i], i]
        assert len(mine) <= max(-(-n // k), 4)
        assert mine.min() >= others.max(initial=0) - TOLERANCE
        if len(mine) < max(-(-n // k), 4):
            assert mine.sum() >= (NAMED - TOLERANCE) * sizes[:, i].sum()
    owner = np.array([t for t, *_ in msus(adapters)])
    left = np.where(named, 0, wanted)
    rest = dict(zip(lineage.adapters.tolist(), lineage.rest.tolist(), strict=True))
    for t in range(len(adapters)):
        assert rest.get(t, 0.0) == pytest.approx(left[owner == t].sum(), abs=10 * TOLERANCE)
    sums = float(lineage.shares.sum() + lineage.rest.sum())
    assert sums == pytest.approx(k, abs=n * k * GRID)


@pytest.mark.parametrize("k", [1, 3, 9, 40])
@pytest.mark.parametrize("ranks", [[2, 3], [4, 5, 6, 3]])  # fewer than both sides, and more
@pytest.mark.parametrize("name", ["svd", "iso"])
def test_shares_of_a_sum_are_those_of_the_dense_decomposition(
    name: str, ranks: list[int], k: int
) -> None:
    adapters = zoo(ranks, [2.0, 1.0, -0.5, 3.0][: len(ranks)])
    wanted = by_projection(adapters, k)
    assert np.allclose(wanted.sum(axis=0), 1)
    check(adapters, solve(adapters, name, k), wanted)


def test_shares_of_the_output_metric_are_those_of_the_dense_minimiser() -> None:
    for ranks, k in (([2, 3], 4), ([4, 5, 6], 3)):
        adapters = zoo(ranks, [2.0, 1.0, -0.5][: len(ranks)])
        updates = [s * (b.double() @ a.double()).numpy() for a, b, s in adapters]
        weights = [w @ w.T / np.sum(w * w) + np.eye(len(w)) / len(w) for w in updates]
        metric = np.sum(weights, axis=0)
        root = np.linalg.cholesky(metric)
        u, _, _ = np.linalg.svd(
            root.T @ np.linalg.solve(metric, np.sum(weights @ np.array(updates), 0))
        )
        cut = np.linalg.solve(root.T, u[:, :k] @ u[:, :k].T @ root.T)
        parts = [cut @ np.linalg.solve(metric, weights[t] @ c) for t, _, c in msus(adapters)]
        check(adapters, solve(adapters, "output_metric", k), along(parts, k))


def along(parts: list[Shares], k: int) -> Shares:
    """Shares of the parts of an update in its first k singular terms."""
    u, s, vt = np.linalg.svd(np.sum(parts, axis=0))
    return np.array([[u[:, i] @ part @ vt[i] / s[i] for i in range(k)] for part in parts])


def test_shares_of_task_singular_vectors_are_those_in_each_adapters_own() -> None:
    adapters = zoo([4, 5, 6], [2.0, 1.0, -0.5])
    terms = []
    for t, (a, b, scaling) in enumerate(adapters):
        u, s, vt = np.linalg.svd((scaling * b.double() @ a.double()).numpy())
        terms += [(s[i], t, u[:, i], vt[i]) for i in range(2)]
    terms.sort(key=lambda term: -term[0])  # two of each, the largest first
    wanted = [
        [u @ c @ v / s if t == owner else 0.0 for s, owner, u, v in terms]
        for t, _, c in msus(adapters)
    ]
    check(adapters, solve(adapters, "tsv", 6), np.array(wanted))


def ties_factors(tensors: list[Shares], density: float) -> list[Shares]:
    """What each entry counts for in TIES' mean of the largest of one sign."""
    left = []
    for tensor in tensors:
        least = np.sort(np.abs(tensor), axis=None)[-max(int(density * tensor.size), 1)]
        left.append(np.where(np.abs(tensor) >= least, tensor, 0))
    sign = np.where(np.sum(left, axis=0) >= 0, 1, -1)
    agree = [tensor * sign > 0 for tensor in left]
    return [each / np.maximum(np.sum(agree, axis=0), 1) for each in agree]


STACKED: list[tuple[str, dict[str, Any]]] = [
    ("linear", {}),
    ("magnitude_prune", {"density": 0.5}),
    ("ties", {"density": 0.6}),
]


@pytest.mark.parametrize(("name", "options"), STACKED, ids=lambda case: str(case))
def test_shares_rank_by_rank_are_those_in_both_halves(name: str, options: dict[str, Any]) -> None:
    adapters = zoo([4, 2, 4, 3], [2.0, 1.0, 0.5, 3.0])
    found = solve(adapters, name, 4, **options)
    assert found.lineage is not None
    halves = []  # what is left of each adapter's A and B, in rows, of which the merged half is the sum
    for half in (0, 1):
        rows = [abs(s) ** 0.5 * (a, b.T)[half].double().numpy() for a, b, s in adapters]
        padded = [np.pad(each, ((0, 4 - len(each)), (0, 0))) for each in rows]
        if name == "ties":
            kept = [np.where(keeps(each, 0.6), each, 0) for each in rows]
            kept = [np.pad(each, ((0, 4 - len(each)), (0, 0))) for each in kept]
            padded = [f * x for f, x in zip(ties_factors(kept, 1.0), kept, strict=True)]
        elif name == "magnitude_prune":
            kept = [np.where(keeps(each, 0.5), each, 0) for each in rows]
            padded = [np.pad(each, ((0, 4 - len(each)), (0, 0))) for each in kept]
        merged = np.sum(padded, axis=0)
        halves.append([(x * merged).sum(axis=1) / (merged**2).sum(axis=1) for x in padded])
    for t, i, rank, share in rows_of(found):
        assert rank == i
        wanted = (halves[0][int(t)][int(i)] + halves[1][int(t)][int(i)]) / 2
        assert share == pytest.approx(wanted, abs=TOLERANCE)
    sums = torch.zeros(4, dtype=torch.float64)
    sums.index_add_(0, found.lineage.ranks, found.lineage.shares)
    assert torch.allclose(sums, torch.ones(4, dtype=torch.float64), atol=1e-5)


def keeps(rows: Shares, density: float) -> NDArray[np.bool_]:
    sizes = np.sort(np.abs(rows), axis=None)
    return np.asarray(np.abs(rows) >= sizes[-int(density * rows.size)])


@pytest.mark.parametrize("density", [0.3, 1.0])
@pytest.mark.parametrize("ranks", [[2, 3, 2], [4, 5, 6]])  # fewer than both sides, and more
@pytest.mark.parametrize("name", ["core_space", "knots"])
def test_shares_in_shared_bases_are_those_of_what_prevails(
    name: str, ranks: list[int], density: float
) -> None:
    adapters = zoo(ranks, [2.0, 1.0, 0.5])
    updates = [s * (b.double() @ a.double()).numpy() for a, b, s in adapters]
    if name == "core_space":
        u = signed(np.linalg.svd(np.hstack([s**0.5 * b for _, b, s in adapters]), False)[0])
        v = signed(np.linalg.svd(np.vstack([s**0.5 * a for a, _, s in adapters]), False)[2].T)
        factors = ties_factors([u.T @ w @ v for w in updates], density)
        parts = [u @ (factors[t] * (u.T @ c @ v)) @ v.T for t, _, c in msus(adapters)]
    else:
        u, s, _ = np.linalg.svd(np.hstack(updates), full_matrices=False)
        kept = int((s > 1e-6 * s[0]).sum())
        u, s = signed(u)[:, :kept], s[:kept]
        factors = ties_factors([w.T @ u / s for w in updates], density)
        parts = [u * s @ (factors[t] * (c.T @ u / s)).T for t, _, c in msus(adapters)]
    found = solve(adapters, name, 3, density=density)
    check(adapters, found, along(parts, 3))


def test_shares_in_directions_shared_at_all_ranks_are_those_of_the_sum() -> None:
    adapters = zoo([2, 3, 2], [2.0, 1.0, 0.5])
    wanted = by_projection(adapters, 7)
    for name in ("core_space", "knots", "ctm"):
        check(adapters, solve(adapters, name, 7, inner="sum"), wanted)


MIXING = [name for name in METHODS if name not in ("lego", "concat")]
SPREAD = [("svd", 9), ("iso", 5)]
SPREAD += [(name, 8) for name in MIXING if isinstance(method_of(name, {}), Parted)]


@pytest.mark.parametrize("name", MIXING)
def test_the_shares_of_every_rank_add_up_to_one(name: str) -> None:
    adapters = zoo([4, 3, 5, 2], [1.0, 2.0, 0.5, 1.5])
    found = solve(adapters, name, 5, seed=3)
    assert found.lineage is not None
    named = torch.zeros(len(found.rows), dtype=torch.float64)
    named.index_add_(0, found.lineage.ranks, found.lineage.shares)
    whole = float(named.sum() + found.lineage.rest.sum())
    assert whole == pytest.approx(len(found.rows), abs=1e-5)


@pytest.mark.parametrize(("name", "k"), SPREAD)
def test_shards_have_the_same_lineage(name: str, k: int) -> None:
    adapters = zoo([4, 7, 2, 5, 4], [2.0, 1.0, -0.5, 3.0, 1.0])
    wanted = solve(adapters, name, k, seed=3)
    assert wanted.lineage is not None
    for cuts in ([], [2], [1, 2, 3, 4]):
        found = in_shards(adapters, cuts, name, k, seed=3)
        assert rows_of(found) == rows_of(wanted)


@pytest.mark.parametrize("name", MIXING)
def test_the_order_of_adapters_and_ranks_changes_no_share(name: str) -> None:
    adapters = zoo([4, 7, 2, 5])
    wanted = rows_of(solve(adapters, name, 8, seed=3))
    numbers = {a.tobytes(): t for t, a in enumerate(a.numpy() for a, *_ in adapters)}
    for seed in range(2):
        other = shuffled(adapters, seed, ranks=False)
        found = rows_of(solve(other, name, 8, seed=3))
        back = [numbers[a.numpy().tobytes()] for a, *_ in other]
        assert sorted((back[int(t)], *rest) for t, *rest in found) == wanted


@pytest.mark.parametrize("name", MIXING)
def test_a_lone_adapter_has_its_own_lineage(name: str) -> None:
    a, b = torch.linalg.qr(factors(0, 5)[0].T)[0].T, torch.linalg.qr(factors(0, 5)[1])[0]
    adapters = [(a, b * torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0]), 1.0)]
    options = {} if name == "linear" else ALL_STAYS.get(name, {})
    found = rows_of(solve(adapters, name, 5, **options))
    assert [row[:3] for row in found] == [(0, i, i) for i in range(5)]
    assert [row[3] for row in found] == pytest.approx([1.0] * 5, abs=TOLERANCE)


def rows_of(solution: SiteSolution) -> list[tuple[float, ...]]:
    """A lineage in full, without the order of its rows."""
    lineage = solution.lineage
    assert lineage is not None
    named = zip(
        solution.adapters[lineage.at].tolist(),
        solution.ranks[lineage.at].tolist(),
        lineage.ranks.tolist(),
        lineage.shares.tolist(),
        strict=True,
    )
    rest = zip(lineage.adapters.tolist(), lineage.rest.tolist(), strict=True)
    return sorted([*named, *((t, -1, -1, share) for t, share in rest)])


def test_ranks_of_singular_msus_are_these() -> None:
    """Adapters whose MSUs are orthogonal: each merged rank is one of them."""
    a, b = torch.eye(6), torch.eye(6)
    lengths = torch.tensor([6.0, 5.0, 4.0, 3.0, 2.0, 1.0])
    adapters = [(a[:3], b[:, :3] * lengths[:3], 1.0), (a[3:], b[:, 3:] * lengths[3:], 1.0)]
    assert rows_of(solve(adapters, "svd", 6)) == [
        (t, i, 3 * t + i, 1.0) for t in range(2) for i in range(3)
    ]


def test_ranks_that_are_rounding_are_made_of_nothing() -> None:
    a, b = factors(0, 3)
    c, d = factors(1, 3)
    lineage = solve([(a, b, 1.0), (c, d, 1.0), (a, b, 2.0)], "svd", 9).lineage
    assert lineage is not None
    assert set(lineage.ranks.tolist()) == set(range(6))
    gone = solve([(a, b, 1.0), (a, b, -1.0)], "svd", 3).lineage
    assert gone is not None
    assert (len(gone.shares), len(gone.rest)) == (0, 0)


def test_a_huge_pool_names_few_and_loses_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    products = torch.rand(6000, 4, generator=generator, dtype=torch.float64) - 0.3
    adapters = torch.arange(6000) // 8
    lineage = lineage_of_products(products, adapters)
    assert len(lineage.shares) == 4 * 256
    wanted = (products / products.sum(dim=0)).sum(dim=1)
    for t in (0, 100, 749):
        found = lineage.shares[adapters[lineage.at] == t].sum()
        found += lineage.rest[lineage.adapters == t].sum()
        assert float(found) == pytest.approx(float(wanted[adapters == t].sum()), abs=40 * GRID)
