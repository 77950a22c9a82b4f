"""The methods that merge A and B apart, against PEFT's functions and plain loops."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import pytest
import torch
from peft.utils import merge_utils
from torch import Tensor

from lego_ray.numerics.msu import msu_rows
from lego_ray.numerics.sparsify import Sparsity, keep_largest, sparsify
from tests.methods.solving import Adapters, solve
from tests.numerics.factors import D_IN, zoo

# PEFT sums float32 values in float32, ours are rounded once: a few units in the last place of the
# largest value summed.
PEFT_ROUNDING = 8 * 2.0**-24


def scaled_stacks(adapters: Adapters) -> tuple[list[Tensor], list[Tensor]]:
    """A and B of each adapter with sqrt(s) folded in, B as rows."""
    rows = [msu_rows(*adapter) for adapter in adapters]
    return [r[:, :D_IN] for r in rows], [r[:, D_IN:] for r in rows]


def assert_rows(found: Tensor, a: Tensor, b: Tensor) -> None:
    wanted = torch.cat([a, b], dim=1)
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max()) <= PEFT_ROUNDING * float(wanted.abs().max())


def by_peft(name: str, tensors: list[Tensor], **options: object) -> Tensor:
    function = {"linear": "task_arithmetic"}.get(name, name)
    merged: Tensor = getattr(merge_utils, function)(tensors, torch.ones(len(tensors)), **options)
    return merged


CASES = [
    ("linear", {}, {}),
    *[("magnitude_prune", {"density": d}, {"density": d}) for d in (0.1, 0.5, 0.9)],
    *[
        ("ties", {"density": d, "election": e}, {"density": d, "majority_sign_method": e})
        for d in (0.2, 0.6, 1.0)
        for e in ("total", "frequency")
    ],
]


@pytest.mark.filterwarnings("ignore:The density")
@pytest.mark.parametrize(("name", "ours", "theirs"), CASES, ids=str)
def test_equals_pefts_functions_on_the_scaled_factors(
    name: str, ours: dict[str, Any], theirs: dict[str, Any]
) -> None:
    adapters = zoo([5] * 4, [2.0, 1.0, 0.5, -3.0])
    a, b = scaled_stacks(adapters)
    found = solve(adapters, name, 5, **ours).rows
    assert_rows(found, by_peft(name, a, **theirs), by_peft(name, b, **theirs))


@pytest.mark.parametrize(("name", "ours", "theirs"), CASES[:5], ids=str)
def test_equals_peft_with_its_own_weights_where_scalings_agree(
    name: str, ours: dict[str, Any], theirs: dict[str, Any]
) -> None:
    """As `add_weighted_adapter` calls them: raw factors, and sqrt(weight * scaling) as weights."""
    adapters = zoo([5] * 4, [2.0] * 4)
    function = getattr(merge_utils, {"linear": "task_arithmetic"}.get(name, name))
    weights = torch.full((4,), math.sqrt(2.0))
    a = function([a for a, _, _ in adapters], weights, **theirs)
    b = function([b for _, b, _ in adapters], weights, **theirs)
    assert_rows(solve(adapters, name, 5, **ours).rows, a, b.T)


def test_lower_ranks_count_as_padded_with_zeros() -> None:
    adapters = zoo([5, 2, 3])
    cases: list[tuple[str, dict[str, Any]]] = [("linear", {}), ("ties", {"density": 1.0})]
    for name, options in cases:
        padded = [
            (
                torch.cat([a, torch.zeros(5 - len(a), a.shape[1])]),
                torch.cat([b, torch.zeros(b.shape[0], 5 - len(a))], dim=1),
                s,
            )
            for a, b, s in adapters
        ]
        assert torch.equal(
            solve(adapters, name, 5, **options).rows, solve(padded, name, 5, **options).rows
        )


def ties_by_loops(tensors: list[np.ndarray], density: float) -> np.ndarray:
    """TIES in float64 and loops, from the paper's three steps."""
    out = np.zeros_like(tensors[0])
    trimmed = []
    for tensor in tensors:
        order = sorted(np.abs(tensor).flatten(), reverse=True)
        kept = int(density * tensor.size)
        least = order[kept - 1] if kept else np.inf
        trimmed.append(np.where(np.abs(tensor) >= least, tensor, 0.0))
    for index in np.ndindex(out.shape):
        values = [float(tensor[index]) for tensor in trimmed]
        sign = 1.0 if sum(values) >= 0 else -1.0
        agreeing = [v for v in values if v * sign > 0]
        out[index] = sum(agreeing) / len(agreeing) if agreeing else 0.0
    return out


@pytest.mark.parametrize("density", [0.2, 0.7])
def test_ties_equals_plain_loops(density: float) -> None:
    adapters = zoo([4] * 5, [2.0, 1.0, 0.5, 3.0, 0.1])
    wanted = [
        torch.from_numpy(ties_by_loops([t.double().numpy() for t in half], density)).float()
        for half in scaled_stacks(adapters)
    ]
    assert_rows(solve(adapters, "ties", 4, density=density).rows, *wanted)


@pytest.mark.parametrize(("name", "election"), [("dare_linear", None), ("dare_ties", "total")])
def test_dare_is_pefts_merge_of_what_the_draw_left(
    name: str, election: Literal["total"] | None
) -> None:
    """PEFT draws from the global generator, so its merges are held against the same draw."""
    adapters = zoo([5] * 4, [2.0, 1.0, 0.5, 3.0])
    draw = int(torch.randint(2**62, (1,), generator=torch.Generator().manual_seed(7)))
    left = [
        sparsify(msu_rows(*adapter), D_IN, Sparsity("random", 0.4, draw)) for adapter in adapters
    ]
    halves = []
    for half in (slice(0, D_IN), slice(D_IN, None)):
        stack = torch.stack([rows[:, half] for rows in left])
        if election:
            mask = merge_utils.calculate_majority_sign_mask(stack, election)
            halves.append(merge_utils.disjoint_merge(stack, mask))
        else:
            halves.append(stack.sum(dim=0))
    assert_rows(solve(adapters, name, 5, seed=7, density=0.4).rows, *halves)


def test_a_draw_keeps_its_share_grown_to_the_same_mean() -> None:
    rows = torch.randn(40, 500, generator=torch.Generator().manual_seed(0))
    left = sparsify(rows, 300, Sparsity("random", 0.3, 11))
    stayed = left != 0
    assert torch.equal(left[stayed], (rows / 0.3)[stayed])
    # 20,000 draws: five standard errors of the share are 0.016.
    assert abs(float(stayed.float().mean()) - 0.3) < 0.016
    assert not torch.equal(stayed[0], stayed[1])
    again = sparsify(rows.flip(0), 300, Sparsity("random", 0.3, 11))
    assert torch.equal(again.flip(0), left)  # each row's draw is its own
    assert not torch.equal(sparsify(rows, 300, Sparsity("random", 0.3, 12)) != 0, stayed)


def test_the_seed_and_nothing_else_moves_a_draw() -> None:
    adapters = zoo([5] * 3)
    first = solve(adapters, "dare_linear", 5, seed=1).rows
    torch.manual_seed(3)
    assert torch.equal(solve(adapters, "dare_linear", 5, seed=1).rows, first)
    assert not torch.equal(solve(adapters, "dare_linear", 5, seed=2).rows, first)


def test_the_least_are_dropped_and_equals_stay_together() -> None:
    values = torch.tensor([[3.0, -1.0, 0.5], [-2.0, 1.0, 0.0]])
    assert keep_largest(values, 0.5).tolist() == [[3.0, -1.0, 0.0], [-2.0, 1.0, 0.0]]
    assert keep_largest(values, 0.34).tolist() == [[3.0, 0.0, 0.0], [-2.0, 0.0, 0.0]]
    assert not bool(keep_largest(values, 0.1).any())
    assert not bool(keep_largest(torch.zeros(3, 3), 0.5).any())
