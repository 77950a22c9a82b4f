"""What merges adapters in bases they share: the choice of the merge inside."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lego_ray.errors import InvalidOption
from lego_ray.methods.registry import method_of
from tests.methods.solving import solve
from tests.numerics.factors import zoo

IN_BASES = ["core_space", "knots", "ctm"]


@pytest.mark.parametrize("name", IN_BASES)
def test_the_seed_and_nothing_else_moves_the_draw(name: str) -> None:
    adapters = zoo([4, 7, 2, 5])
    options = {"inner": "dare_ties", "dare_density": 0.5}
    first = solve(adapters, name, 5, seed=1, **options).rows
    torch.manual_seed(3)
    assert torch.equal(solve(adapters, name, 5, seed=1, **options).rows, first)
    assert not torch.equal(solve(adapters, name, 5, seed=2, **options).rows, first)
    for inner in ("sum", "ties"):
        rows = [solve(adapters, name, 5, seed=s, inner=inner).rows for s in (1, 2)]
        assert torch.equal(*rows)


@pytest.mark.parametrize("name", IN_BASES)
def test_the_order_of_adapters_and_ranks_moves_no_draw(name: str) -> None:
    adapters = zoo([4, 7, 2, 5])
    turned = [(a.flip(0), b.flip(1), s) for a, b, s in adapters[::-1]]
    rows = [
        solve(each, name, 5, inner="dare_ties", dare_density=0.5) for each in (adapters, turned)
    ]
    assert torch.equal(rows[0].rows, rows[1].rows)


@pytest.mark.parametrize("name", IN_BASES)
def test_a_draw_that_drops_nothing_is_ties(name: str) -> None:
    adapters = zoo([4, 7, 2, 5])
    drawn = solve(adapters, name, 5, inner="dare_ties", dare_density=1.0, density=0.4)
    assert torch.equal(drawn.rows, solve(adapters, name, 5, inner="ties", density=0.4).rows)


@pytest.mark.parametrize("name", IN_BASES)
@pytest.mark.parametrize("inner", ["sum", "ties", "dare_ties"])
def test_a_recipe_that_names_every_option_makes_the_same_method(name: str, inner: str) -> None:
    made: Any = method_of(name, {"inner": inner})
    options = {field: getattr(made, field) for field in made.__dataclass_fields__}
    assert method_of(name, options) == made


@pytest.mark.parametrize("name", IN_BASES)
@pytest.mark.parametrize(
    ("options", "says", "hint"),
    [
        ({"inner": "mean"}, "--inner: 'mean' is not one of sum, ties, dare_ties", ""),
        ({"inner": "sum", "density": 0.5}, "--density: ", "Take --inner ties or dare_ties"),
        (
            {"inner": "sum", "election": "total"},
            "--election: the inner merge sum does not have",
            "",
        ),
        ({"dare_density": 0.5}, "--dare-density: ", "Take --inner dare_ties"),
        (
            {"inner": "dare_ties", "dare_density": 0},
            "--dare-density: 0 is not a number above 0",
            "",
        ),
        ({"inner": "dare_ties", "dare_density": True}, "--dare-density: True is of type bool", ""),
        ({"density": 1.5}, "--density: 1.5 is not a number above 0 and at most 1", ""),
        ({"election": "vote"}, "--election: 'vote' is not one of total, frequency", ""),
    ],
    ids=str,
)
def test_options_are_checked(name: str, options: dict[str, object], says: str, hint: str) -> None:
    with pytest.raises(InvalidOption, match=says) as caught:
        method_of(name, options)
    assert hint in caught.value.hint
