"""Ranks chosen by spectra: the smallest for an error, the best for a budget."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lego_ray.errors import InvalidOption
from lego_ray.planning.options import DEFAULT_ERROR
from lego_ray.planning.planner import make_plan
from lego_ray.planning.rank_options import asked_rank
from lego_ray.planning.ranks import (
    Spectrum,
    error_table,
    nearest_error,
    rank_for_error,
    ranks_for_budget,
    with_ranks,
)
from lego_ray.planning.recipe import Recipe
from tests.planning.records import adapter, factors, inventory, zoo

# Ranks are taken by their worth in float32, so two that differ by less count as equals.
EQUALS = 2.0**-22


def spectrum(site: str, values: list[float], width: int = 10) -> Spectrum:
    return Spectrum(site, width, np.sort(np.square(np.array(values, np.float64)))[::-1])


def left_over(spectra: list[Spectrum], ranks: tuple[int, ...]) -> float:
    """Squared error of the nearest adapter of these ranks, summed one by one."""
    return sum(
        float(energy)
        for s, k in zip(spectra, ranks, strict=True)
        for number, energy in enumerate(s.energies)
        if number >= k
    )


values = st.lists(st.floats(0.01, 10), min_size=1, max_size=4)
widths = st.sampled_from([6, 10, 14])


def some(given: list[tuple[list[float], int]]) -> list[Spectrum]:
    return [spectrum(f"s{i}", each, width) for i, (each, width) in enumerate(given)]


@settings(max_examples=60, deadline=None)
@given(st.lists(values, min_size=1, max_size=3), st.floats(0.01, 0.99))
def test_the_rank_is_the_smallest_that_is_near_enough(found: list[list[float]], e: float) -> None:
    spectra = some([(each, 10) for each in found])
    total = left_over(spectra, (0,) * len(spectra))
    near = [
        k
        for k in range(1, 5)
        if left_over(spectra, (k,) * len(spectra)) <= e**2 * total * (1 + 1e-9)
    ]
    assert rank_for_error(spectra, e) == min(near)


@settings(max_examples=60, deadline=None)
@given(st.lists(values, min_size=1, max_size=3), st.integers(1, 4))
def test_a_budget_of_equal_sites_is_spent_as_well_as_can_be(
    found: list[list[float]], budget: int
) -> None:
    spectra = some([(each, 10) for each in found])
    ranks = tuple(ranks_for_budget(spectra, budget).values())
    assert sum(ranks) <= budget * len(spectra)
    every = itertools.product(*(range(1, len(s.energies) + 1) for s in spectra))
    best = min(left_over(spectra, r) for r in every if sum(r) <= budget * len(spectra))
    assert left_over(spectra, ranks) <= best + EQUALS * left_over(spectra, (0,) * len(spectra))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(values, widths), min_size=1, max_size=3), st.integers(1, 4))
def test_a_budget_of_unlike_sites_misses_at_most_what_one_rank_is_worth(
    found: list[tuple[list[float], int]], budget: int
) -> None:
    spectra = some(found)
    room = budget * sum(s.width for s in spectra)
    widest = max(s.width for s in spectra)
    ranks = tuple(ranks_for_budget(spectra, budget).values())

    def cost(r: tuple[int, ...]) -> int:
        return sum(s.width * k for s, k in zip(spectra, r, strict=True))

    assert cost(ranks) <= room
    every = list(itertools.product(*(range(1, len(s.energies) + 1) for s in spectra)))
    # As well as any ranks that leave room for one more of the widest site.
    best = min(
        (left_over(spectra, r) for r in every if cost(r) <= room - widest + 1), default=np.inf
    )
    assert left_over(spectra, ranks) <= best + EQUALS * left_over(spectra, (0,) * len(spectra))


def test_a_rank_costs_what_its_site_is_wide() -> None:
    spectra = [spectrum("narrow", [10, 8, 7, 1], 10), spectrum("wide", [9, 8, 6], 20)]
    assert ranks_for_budget(spectra, 1) == {"narrow": 1, "wide": 1}
    # 64 and 49 for 10 parameters each come before 64 for 20, for which there is no room then.
    assert ranks_for_budget(spectra, 2) == {"narrow": 4, "wide": 1}
    # 30 more: 64 for 20 and then 36 for 20, before 1 for 10.
    assert ranks_for_budget(spectra, 3) == {"narrow": 3, "wide": 3}


def test_what_does_not_fit_makes_room_for_what_does() -> None:
    spectra = [spectrum("narrow", [3, 1, 1], 10), spectrum("wide", [9, 8, 7, 6], 25)]
    # 35 more parameters: one rank of the wide site, and the ten that are left to the narrow one.
    assert ranks_for_budget(spectra, 2) == {"narrow": 2, "wide": 2}


def test_nothing_is_spent_on_ranks_that_lower_nothing() -> None:
    spectra = [spectrum("a", [2, 1, 0, 0]), spectrum("b", [0, 0, 0, 0])]
    assert ranks_for_budget(spectra, 4) == {"a": 2, "b": 1}
    assert rank_for_error([spectrum("b", [0, 0])], 0.5) == 1
    assert nearest_error([spectrum("b", [0, 0])], Recipe(name="m", rank=1)) == 0.0


def test_rounding_decides_nothing() -> None:
    first, second = spectrum("first", [2, 1, 1]), spectrum("second", [2, 1 + 1e-13, 1])
    assert ranks_for_budget([first, second], 2) == {"first": 2, "second": 2}
    more = [first, second, spectrum("other", [1])]  # room for three more, and one site takes none
    assert ranks_for_budget(more, 2) == {"first": 3, "second": 2, "other": 1}
    for value in (4 - 1e-13, 4, 4 + 1e-13):  # an error of exactly 0.6
        assert rank_for_error([spectrum("tie", [3, value])], 0.6) == 1


def test_the_table_tells_the_error_of_powers_of_two_of_all_and_of_more() -> None:
    spectra = [spectrum("a", [3, 2, 1]), spectrum("b", [2, 2, 2, 2, 2, 1])]
    table = error_table(spectra, [3, 7])
    assert [each.rank for each in table] == [1, 2, 3, 4, 6]
    total = left_over(spectra, (0, 0))
    for each in table:
        assert each.error == pytest.approx((left_over(spectra, (each.rank,) * 2) / total) ** 0.5)
    assert (table[0].worst_site, table[-1].error) == ("b", 0.0)
    assert table[0].worst_error == pytest.approx((17 / 21) ** 0.5)


def test_chosen_ranks_are_part_of_the_recipe_and_name_the_plan() -> None:
    found = zoo()
    spectra = [spectrum(s.site, [4, 3, 2, 1]) for s in found.adapters[0].sites]
    spectra[0] = spectrum(spectra[0].site, [90, 80, 70, 60])
    auto = with_ranks(Recipe(name="m", rank=None, rank_error=0.1), spectra)
    assert (auto.rank, auto.ranks, auto.is_open) == (rank_for_error(spectra, 0.1), {}, False)
    budget = with_ranks(Recipe(name="m", rank=None, rank_budget=2), spectra)
    assert budget.ranks == ranks_for_budget(spectra, 2)
    assert (budget.rank, budget.compact) == (4, True)
    made = make_plan(budget, found)
    assert {s.site: s.rank for g in made.tasks for s in g.sites} == budget.ranks
    other = {**budget.ranks, spectra[1].site: 3}
    digests = {
        make_plan(recipe, found).digest
        for recipe in (
            *(auto, budget, Recipe(name="m", rank=auto.rank)),
            Recipe(name="m", rank=None, rank_error=0.1),
            Recipe(name="m", rank=None, rank_error=0.2),
            Recipe(name="m", rank=None, rank_budget=2),
            Recipe(name="m", rank=4, rank_budget=2, ranks=other),
        )
    }
    assert len(digests) == 7
    assert Recipe(**{**budget.as_json(), "exclude": ()}) == budget


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"rank": None}, "no rank is given"),
        ({"rank": "best"}, "'best'"),
        ({"rank": 4, "rank_error": 0.1}, "--rank auto alone"),
        ({"rank": None, "rank_error": 0.1, "rank_budget": 3}, "--rank auto alone"),
        ({"rank": "auto", "rank_budget": 3}, "takes the place of --rank auto"),
        ({"rank": 4, "rank_budget": 3}, "takes the place of --rank 4"),
        ({"rank": "auto", "rank_error": 0.0}, "above 0 and below 1"),
        ({"rank": "auto", "rank_error": 1.0}, "above 0 and below 1"),
        ({"rank": "auto", "rank_error": float("nan")}, "above 0 and below 1"),
        ({"rank": "auto", "rank_error": "small"}, "above 0 and below 1"),
        ({"rank": None, "rank_budget": 0}, "whole number of at least 1"),
        ({"rank": None, "rank_budget": 2.5}, "whole number of at least 1"),
        ({"rank": True}, "True"),
    ],
    ids=str,
)
def test_options_that_say_nothing_or_too_much(given: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidOption, match=says):
        Recipe(name="m", **asked_rank(**given))


def test_auto_has_a_default() -> None:
    assert asked_rank("auto") == {"rank": None, "rank_error": DEFAULT_ERROR}


@pytest.mark.parametrize("method", ["concat", "linear", "ties", "dare_ties", "tsv"])
@pytest.mark.parametrize("asked", [{"rank_error": 0.1}, {"rank_budget": 4}], ids=str)
def test_methods_that_need_some_rank_have_none_to_choose(
    method: str, asked: dict[str, Any]
) -> None:
    with pytest.raises(InvalidOption, match="does not take every rank") as caught:
        make_plan(Recipe(name="m", rank=None, method=method, **asked), zoo())
    assert "Give --rank" in str(caught.value)


def test_a_merge_that_fits_at_no_rank_is_refused_before_it_is_measured() -> None:
    sites = [factors("layers.0.q", 50, (64, 64))]
    many = inventory(*(adapter(f"a{i}", sites) for i in range(400)))
    opened = Recipe(name="m", rank=None, rank_error=0.1, options={"distance": "rank-one"})
    with pytest.raises(InvalidOption, match="rank-one"):
        make_plan(opened, many, memory_budget=2**29)
    measured = make_plan(Recipe(name="m", rank=None, rank_error=0.1), many, memory_budget=2**29)
    assert [s.route for g in measured.tasks for s in g.sites] == ["spectrum"]
