"""The output metric against its definition on dense matrices, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.methods.solving import Adapters, solve
from tests.methods.test_laws import shuffled
from tests.numerics.factors import D_IN, D_OUT, factors, total, update, zoo

ROUNDING = 16 * 2.0**-23


def by_definition(adapters: Adapters, k: int) -> np.ndarray:
    updates = [total([one]) for one in adapters]
    metrics = [w @ w.T / np.linalg.norm(w) ** 2 + np.eye(D_OUT) / D_OUT for w in updates]
    whole = np.sum(metrics, axis=0)
    wanted = np.linalg.solve(
        whole, np.sum([g @ w for g, w in zip(metrics, updates, strict=True)], 0)
    )
    values, vectors = np.linalg.eigh(whole)
    root = (vectors * np.sqrt(values)) @ vectors.T
    u, s, vh = np.linalg.svd(root @ wanted, full_matrices=False)
    return np.asarray(np.linalg.solve(root, (u[:, :k] * s[:k]) @ vh[:k]))


@pytest.mark.parametrize("k", [1, 3, 9])
@pytest.mark.parametrize("ranks", [[4, 2], [1, 1, 3], [4, 7, 2, 5], [30, 12]], ids=str)
def test_it_is_its_definition(ranks: list[int], k: int) -> None:
    adapters = zoo(ranks, [2.0, 0.5, -1.0, 3.0][: len(ranks)])
    wanted = by_definition(adapters, k)
    found = solve(adapters, "output_metric", k)
    got = update(found.rows, D_IN)
    assert np.linalg.norm(got - wanted) <= ROUNDING * np.linalg.norm(wanted)
    s = total(adapters)
    error = np.linalg.norm(got - s) / np.linalg.norm(s)
    assert found.comparison.relative_error() == pytest.approx(error, rel=1e-5)


@pytest.mark.parametrize("copies", [1, 2, 5])
def test_copies_of_one_come_back(copies: int) -> None:
    [one] = zoo([4])
    got = update(solve([one] * copies, "output_metric", 4).rows, D_IN)
    assert np.linalg.norm(got - total([one])) <= 1e-6 * np.linalg.norm(total([one]))


def test_adapters_that_write_to_other_outputs_are_added() -> None:
    """To the share that the identity in the metric leaves of each."""
    (a, b), (c, d) = factors(1, 2), factors(2, 2)
    b[4:], d[:4] = 0, 0
    one, two = b.double() @ a.double(), d.double() @ c.double()
    got = torch.from_numpy(update(solve([(a, b, 1.0), (c, d, 1.0)], "output_metric", 4).rows, D_IN))
    for mine in (one, two):
        cosine = float((got * mine).sum() / mine.norm() ** 2)
        assert 0.7 < cosine < 1


def test_an_adapter_that_does_nothing_changes_nothing() -> None:
    adapters = zoo([4, 3])
    idle = [(a, torch.zeros_like(b), s) for a, b, s in zoo([2])]
    alone = update(solve(adapters, "output_metric", 7).rows, D_IN)
    got = update(solve([*adapters, *idle], "output_metric", 7).rows, D_IN)
    assert np.linalg.norm(got - alone) <= ROUNDING * np.linalg.norm(alone)
    assert not update(solve(idle, "output_metric", 2).rows, D_IN).any()


def test_ranks_in_another_order_change_no_bit() -> None:
    adapters = zoo([4, 7, 2])
    wanted = solve(adapters, "output_metric", 5).rows
    for seed in range(3):
        assert torch.equal(
            solve(shuffled(adapters, seed, ranks=True), "output_metric", 5).rows, wanted
        )
