"""What every method but lego promises of itself, and the sums that some of them are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lego_ray.errors import InvalidOption
from lego_ray.methods.facts import FACTS
from lego_ray.methods.names import METHODS
from lego_ray.methods.registry import method_of
from tests.methods.solving import Adapters, in_shards, solve
from tests.numerics.factors import D_IN, D_OUT, total, update, zoo

# Rows are rounded to float32 once; an update is a product of two.
ROUNDING = 4 * 2.0**-23
# QR and SVD in float64 add nothing that float32 shows, sums over ranks do.
SVD_ROUNDING = 2.0**-19

OTHERS = [name for name in METHODS if name != "lego"]
BY_RANK = ["linear", "ties", "dare_linear", "dare_ties", "magnitude_prune"]
PARTED = [*BY_RANK, "tsv"]
EXACT = [name for name, facts in FACTS.items() if facts.exact]
# Options under which a method gives one adapter back.
ALL_STAYS: dict[str, dict[str, Any]] = {
    name: dict(facts.lone) for name, facts in FACTS.items() if facts.lone is not None
}


def gap(rows: torch.Tensor, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(update(rows, D_IN) - wanted) / np.linalg.norm(wanted))


def shuffled(adapters: Adapters, seed: int, *, ranks: bool) -> Adapters:
    """The adapters in another order; their ranks too, all alike if they must stay in step."""
    rng = np.random.default_rng(seed)
    out = []
    for t in rng.permutation(len(adapters)):
        a, b, s = adapters[t]
        order = torch.tensor(rng.permutation(len(a))) if ranks else torch.arange(len(a))
        out.append((a[order], b[:, order], s))
    return out


@pytest.mark.parametrize("name", [name for name in OTHERS if name in ALL_STAYS])
def test_one_adapter_at_its_own_rank_is_itself(name: str) -> None:
    for scaling in (2.0, -0.5):
        adapters = zoo([6], [scaling])
        found = solve(adapters, name, 6, **ALL_STAYS.get(name, {}))
        assert gap(found.rows, total(adapters)) <= SVD_ROUNDING
        assert found.comparison.relative_error() < 1e-6


@pytest.mark.parametrize("name", OTHERS)
def test_the_order_of_adapters_changes_no_bit(name: str) -> None:
    adapters = zoo([4, 7, 2, 5])
    first = solve(adapters, name, 18, seed=3)
    for seed in range(3):
        again = solve(shuffled(adapters, seed, ranks=name not in BY_RANK), name, 18, seed=3)
        assert torch.equal(again.rows, first.rows)


@pytest.mark.parametrize("name", BY_RANK)
def test_ranks_in_another_order_alike_in_all_adapters_give_the_same_rows(name: str) -> None:
    adapters = zoo([5, 5, 5])
    order = torch.tensor([3, 0, 4, 1, 2])
    moved = [(a[order], b[:, order], s) for a, b, s in adapters]
    assert torch.equal(solve(moved, name, 5).rows, solve(adapters, name, 5).rows[order])


@pytest.mark.parametrize("name", PARTED)
def test_shards_give_the_same_bits(name: str) -> None:
    adapters = zoo([30, 12, 28, 7, 43])
    wanted = solve(adapters, name, 43, seed=2)
    for cuts in ([], [2], [1, 2, 3, 4]):
        found = in_shards(adapters, cuts, name, 43, seed=2)
        assert torch.equal(found.rows, wanted.rows)
        assert torch.equal(found.adapters, wanted.adapters)
        assert found.comparison.relative_error() == pytest.approx(
            wanted.comparison.relative_error(), rel=1e-6, abs=1e-6
        )


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("k", [18, 40])
def test_shapes_and_records(name: str, k: int) -> None:
    adapters = zoo([4, 7, 2, 5])
    found = solve(adapters, name, k)
    assert found.rows.shape[0] <= k
    assert found.rows.shape[1] == D_IN + D_OUT
    assert found.rows.dtype == torch.float32
    assert bool(torch.isfinite(found.rows).all())
    assert found.inertia is None
    assert found.iterations is None
    # The comparison is of the rows that are returned with the sum of the sources.
    wanted = total(adapters)
    error = np.linalg.norm(update(found.rows, D_IN) - wanted) / np.linalg.norm(wanted)
    assert found.comparison.relative_error() == pytest.approx(error, rel=1e-5, abs=1e-6)
    ratio = np.linalg.norm(update(found.rows, D_IN)) / np.linalg.norm(wanted)
    assert found.comparison.norm_ratio == pytest.approx(ratio, rel=1e-6)


@pytest.mark.parametrize("name", OTHERS)
def test_untrained_adapters_do_no_harm(name: str) -> None:
    nothing = [(a, torch.zeros_like(b), s) for a, b, s in zoo([4, 3])]
    found = solve(nothing, name, 7)
    assert bool(torch.isfinite(found.rows).all())
    assert found.rows.shape[0] >= 1  # a rank of 0 is one no reader takes
    assert not update(found.rows, D_IN).any()
    assert found.comparison.relative_error() == 0.0


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("ranks", [[4, 7, 2], [9, 13, 5], [20, 30]])  # up to more than both sides
def test_k_of_the_whole_pool_is_the_exact_sum(name: str, ranks: list[int]) -> None:
    adapters = zoo(ranks, [2.0, 1.0, -0.5][: len(ranks)])
    found = solve(adapters, name, sum(ranks))
    assert gap(found.rows, total(adapters)) <= SVD_ROUNDING
    assert found.comparison.relative_error() < 1e-6


def test_concat_says_where_each_rank_went() -> None:
    adapters = zoo([3, 2])
    found = solve(adapters, "concat", 5)
    assert found.labels is not None
    for row, adapter, rank in zip(
        found.rows[found.labels], found.adapters, found.ranks, strict=True
    ):
        a, b, s = adapters[int(adapter)]
        wanted = s**0.5 * torch.cat([a[rank], b[:, rank]])
        assert torch.allclose(row, wanted, rtol=ROUNDING)


@pytest.mark.parametrize("k", [1, 3, 8])
@pytest.mark.parametrize("ranks", [[4, 3], [8, 6, 7], [20, 30]])
def test_svd_is_the_nearest_of_its_rank(k: int, ranks: list[int]) -> None:
    adapters = zoo(ranks)
    u, s, vt = np.linalg.svd(total(adapters))
    k = min(k, sum(ranks))
    wanted = (u[:, :k] * s[:k]) @ vt[:k]
    found = solve(adapters, "svd", k)
    assert found.rows.shape[0] == min(k, D_OUT)
    assert gap(found.rows, wanted) <= SVD_ROUNDING
    a, b = found.rows[:, :D_IN].norm(dim=1), found.rows[:, D_IN:].norm(dim=1)
    assert torch.allclose(a, b, rtol=1e-5)
    rest = np.linalg.norm(s[k:]) / np.linalg.norm(s)
    assert found.comparison.relative_error() == pytest.approx(rest, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "ranks", "k", "needs"),
    [
        ("concat", {"q": [4, 4], "v": [4, 9]}, 12, "13 ranks that 2 adapters have together at v"),
        ("linear", {"q": [4, 4], "v": [4, 9]}, 8, "rank 9 of a source at v"),
        ("ties", {"q": [4]}, 3, "rank 4 of a source at q"),
        ("tsv", {"q": [4, 4, 4], "v": [9]}, 2, "the 3 adapters at q"),
    ],
)
def test_a_rank_too_low_is_refused_with_the_one_it_takes(
    name: str, ranks: dict[str, list[int]], k: int, needs: str
) -> None:
    with pytest.raises(InvalidOption, match=needs) as caught:
        method_of(name, {}).check_ranks(ranks, k)
    assert caught.value.where == "--rank"
    enough = {"concat": 13, "tsv": 3}.get(name, max(map(max, ranks.values())))
    assert f"Give --rank {enough}" in caught.value.hint
    method_of(name, {}).check_ranks(ranks, enough)


@pytest.mark.parametrize("name", OTHERS)
def test_costs_grow_with_what_they_pay_for(name: str) -> None:
    method = method_of(name, {})
    small, large = (method.routes(n, 2048, 2048, 16)[0].costs for n in (1000, 2000))
    assert large.workspace_bytes > small.workspace_bytes
    assert large.seconds > small.seconds


@pytest.mark.parametrize("name", ["svd", "iso"])
def test_shards_add_up_a_sum_that_is_smaller_than_the_pool(name: str) -> None:
    adapters = zoo([30, 12, 28, 7, 43])
    wanted = solve(adapters, name, 6)
    for cuts in ([], [2], [1, 2, 3, 4]):
        found = in_shards(adapters, cuts, name, 6)
        assert torch.equal(found.rows, wanted.rows)
        assert found.comparison == wanted.comparison
    again = in_shards(shuffled(adapters, 0, ranks=True), [3], name, 6)
    assert torch.equal(again.rows, wanted.rows)
    assert method_of(name, {}).spread(100_000, 64, 64, 16) is not None
    assert method_of(name, {}).spread(100, 64, 128, 16) is None


@pytest.mark.parametrize("name", ["svd", "iso"])
def test_no_pool_of_a_large_module_needs_more_than_its_sum(name: str) -> None:
    """500 adapters of rank 16 at an MLP of a model of 8 billion parameters."""
    method = method_of(name, {})
    for n in (1600, 4000, 8000, 16_000, 100_000):
        costs = method.routes(n, 4096, 14_336, 16)[0].costs
        assert costs.workspace_bytes <= 3.25 * 2**30 + 64 * n
    spread = method.spread(8000, 4096, 14_336, 16)
    assert spread is not None
    assert spread.owner_bytes <= 3 * 2**30


@pytest.mark.slow
@pytest.mark.parametrize("cuts", [[], [1], [1, 2]])
def test_a_sum_is_the_same_in_shards_where_the_pool_has_fewer_rows_than_a_side(
    cuts: list[int],
) -> None:
    """Of a tall module the sum takes less memory before the pool has more rows than both sides."""
    generator = torch.Generator().manual_seed(0)
    adapters = [
        (
            torch.randn(rank, 256, generator=generator),
            torch.randn(2048, rank, generator=generator),
            1.0,
        )
        for rank in (700, 500, 600)
    ]
    method = method_of("svd", {})
    assert method.spread(1800, 256, 2048, 4) is not None
    wanted = solve(adapters, "svd", 4)
    found = in_shards(adapters, cuts, "svd", 4)
    assert torch.equal(found.rows, wanted.rows)
    assert found.comparison == wanted.comparison


@pytest.mark.parametrize(
    "name", ["concat", "svd", "iso", "core_space", "knots", "ctm", "output_metric"]
)
def test_what_needs_the_pool_whole_says_so(name: str) -> None:
    assert method_of(name, {}).spread(60, 64, 64, 16) is None
    with pytest.raises(InvalidOption, match=f"{name} needs the whole pool of a site"):
        in_shards(zoo([4, 4]), [1], name, 8)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("ties", {"density": 0}, "--density"),
        ("dare_linear", {"density": 1.5}, "--density"),
        ("dare_ties", {"density": float("nan")}, "--density"),
        ("magnitude_prune", {"density": "0.5"}, "--density"),
        ("magnitude_prune", {"density": True}, "--density"),
        ("ties", {"election": "vote"}, "total, frequency"),
        (
            "linear",
            {"density": 0.5},
            "the linear method does not have this option. It has no options",
        ),
        ("svd", {"n_init": 3}, "the svd method does not have this option"),
        ("ties", {"densty": 0.5}, "Did you mean density"),
    ],
)
def test_options_are_checked(name: str, options: dict[str, object], says: str) -> None:
    with pytest.raises(InvalidOption, match=says):
        method_of(name, options)
