"""Running sums against sums of all rows: exact, whatever came and went in between."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import Tensor

from lego_ray.errors import ShapeMismatch, UpdateImpossible
from lego_ray.methods.lego import Lego
from lego_ray.methods.updatable import derived, site_fit
from lego_ray.numerics.kmeans.running_sums import Moved, RunningSite, clusters_of, moved, placed
from lego_ray.numerics.pool import Pool, pool_of

D_IN, D = 5, 9
# Two float64 roundings of numbers near 1, with a factor for the sums in between.
ROUNDING = 1e-13


def adapters(*ranks: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(rank, D, generator=generator) for rank in ranks]


def fitted(rows: list[Tensor], k: int = 3) -> tuple[Lego, Pool, RunningSite, Tensor]:
    """A solved site, as running sums, and the rows that were published."""
    method, pool = Lego(n_init=2), pool_of(enumerate(rows), D_IN)
    solution = method.solve(pool, k, torch.Generator().manual_seed(1))
    return method, pool, RunningSite.of(site_fit(method, pool, solution)), solution.rows


def everyone(n: int, *, but: int | None = None) -> Tensor:
    return torch.tensor([number != but for number in range(n)])


def test_a_fit_is_derived_to_the_last_bit() -> None:
    method, _, site, published = fitted(adapters(4, 3, 6))
    rows, found = derived(method, site, everyone(3), D_IN)
    assert torch.equal(rows, published)
    assert found.members.n == 13


def test_a_cluster_of_one_is_its_row() -> None:
    rows = adapters(4, 3)
    method, _, site, published = fitted(rows, k=7)
    assert torch.equal(derived(method, site, everyone(2), D_IN)[0], published)
    assert {tuple(row.tolist()) for row in site.fit.centroids().float()} == {
        tuple(row.tolist()) for row in torch.cat(rows)
    }


def test_what_comes_in_adds_up_exactly_and_what_goes_leaves_no_trace() -> None:
    rows = adapters(4, 3, 6)
    _, _, site, _ = fitted(rows)
    [new] = adapters(5, seed=9)
    members = placed(site.fit, 0, new, "inf")
    after = moved(site, everyone(3), members, [Moved(new, members.clusters, 1)])
    for at, cluster in enumerate(after.changed.tolist()):
        quanta = site.fit.quanta
        wanted = [
            sum(round(Fraction(float(x)) / Fraction(float(q))) for x in column.tolist())
            for column, q in zip(new[members.clusters == cluster].T, quanta, strict=True)
        ]
        assert after.delta[at].tolist() == wanted
    back = moved(after, everyone(3), site.added, [Moved(new, members.clusters, -1)])
    assert back.changed.numel() == 0
    assert back.delta.numel() == 0


def test_clusters_are_those_of_all_rows_together() -> None:
    rows = adapters(4, 3, 6)
    _, _, site, _ = fitted(rows)
    [new] = adapters(5, seed=9)
    members = placed(site.fit, 0, new, "inf")
    gone = site.fit.members.select(site.fit.members.adapters == 1)
    leaving = rows[1][gone.ranks]
    after = moved(
        site,
        everyone(3, but=1),
        members,
        [Moved(new, members.clusters, 1), Moved(leaving, gone.clusters, -1)],
    )
    found = clusters_of(after, everyone(3, but=1))
    numbered = {0: rows[0], 2: rows[2], 3: new}
    points = torch.stack(
        [
            numbered[int(a)][int(r)].double()
            for a, r in zip(found.members.adapters, found.members.ranks, strict=True)
        ]
    )
    labels = found.members.clusters
    for cluster in range(len(found.counts)):
        mean = points[labels == cluster].mean(dim=0)
        assert torch.allclose(found.centroids[cluster], mean, rtol=0, atol=1e-12)
        norms = points[labels == cluster].abs().amax(dim=1)
        assert float(found.totals[cluster]) == pytest.approx(float(norms.sum()), rel=ROUNDING)
    gaps = points - found.centroids[labels]
    assert found.inertia == pytest.approx(float(gaps.square().sum()), rel=1e-11)


def test_a_column_that_was_zero_takes_what_comes() -> None:
    rows = adapters(4, 3)
    for each in rows:
        each[:, 2] = 0
    _, _, site, _ = fitted(rows)
    [new] = adapters(1, seed=9)
    members = placed(site.fit, 0, new, "inf")
    after = moved(site, everyone(2), members, [Moved(new, members.clusters, 1)])
    units = float(after.delta[0, 2] * site.fit.quanta[2])
    assert units == pytest.approx(float(new[0, 2]), rel=1e-9)
    assert units != 0


def test_a_value_the_sums_cannot_hold_is_an_error() -> None:
    _, _, site, _ = fitted(adapters(4, 3))
    [new] = adapters(1, seed=9)
    new = new * 1e12
    members = placed(site.fit, 0, new, "inf")
    with pytest.raises(UpdateImpossible, match="--refit"):
        moved(site, everyone(2), members, [Moved(new, members.clusters, 1)])


def test_rows_that_are_not_what_came_are_an_error() -> None:
    _, _, site, _ = fitted(adapters(4, 3))
    [new] = adapters(1, seed=9)
    members = placed(site.fit, 0, new, "inf")
    after = moved(site, everyone(2), members, [Moved(new, members.clusters, 1)])
    with pytest.raises(ShapeMismatch):
        moved(after, everyone(2), site.added, [Moved(new * 2, members.clusters, -1)])


def test_an_empty_cluster_is_dropped() -> None:
    method, _, site, _ = fitted(adapters(2, 2), k=4)
    gone = site.fit.members.select(site.fit.members.adapters == 0)
    leaving = adapters(2, 2)[0][gone.ranks]
    after = moved(site, everyone(2, but=0), site.added, [Moved(leaving, gone.clusters, -1)])
    rows, found = derived(method, after, everyone(2, but=0), D_IN)
    assert rows.shape == (2, D)
    assert sorted(found.members.clusters.tolist()) == [0, 1]
