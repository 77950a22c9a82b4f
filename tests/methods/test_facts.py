"""What `lego-ray methods` says of a method is so, and is said of each."""

from __future__ import annotations

import pytest

from lego_ray.errors import InvalidOption
from lego_ray.methods.describe import describe, values_of
from lego_ray.methods.facts import (
    CLUSTERS,
    FACTS,
    SHARES,
    SHARES_OF_KEPT,
    SINGLE,
    facts_of,
)
from lego_ray.methods.names import METHODS, MethodOptions
from lego_ray.methods.presets import PRESETS
from lego_ray.methods.registry import method_of
from lego_ray.options import keywords_of
from tests.methods.solving import solve
from tests.methods.test_laws import SVD_ROUNDING, gap
from tests.numerics.factors import total, zoo

FEW, MANY, SIDE = 8, 4096, 64


def test_every_method_and_preset_has_its_facts() -> None:
    assert FACTS.keys() == METHODS.keys()
    assert all(facts.use and facts.cost for facts in FACTS.values())
    assert all(preset.use for preset in PRESETS.values())
    assert facts_of("longest").use == "-"


def test_presets_that_can_lose_much_are_warned_of() -> None:
    warned = {preset["name"]: preset["warning"] for preset in describe(None)["presets"]}
    assert {name for name, warning in warned.items() if warning} == {"iso", "core-space"}
    assert PRESETS["iso"].advice.endswith(warned["iso"])
    assert PRESETS["paper"].advice == PRESETS["paper"].use


@pytest.mark.parametrize("name", METHODS)
def test_lineage_is_of_the_kind_that_is_promised(name: str) -> None:
    found = solve(zoo([4, 3]), name, 7)
    said = FACTS[name].lineage
    assert (found.labels is not None) == (said in (CLUSTERS, SINGLE))
    assert (found.lineage is not None) == (said in (SHARES, SHARES_OF_KEPT))
    if said == SINGLE:
        assert found.labels is not None
        assert found.labels.tolist() == list(range(7))


@pytest.mark.parametrize("name", METHODS)
def test_one_adapter_stays_only_with_the_options_that_are_named(name: str) -> None:
    adapters = zoo([4])  # ctm's 4 of 16 entries are more than it keeps; 6 of 36 would not be
    lone = FACTS[name].lone
    changed = gap(solve(adapters, name, 4).rows, total(adapters)) > SVD_ROUNDING
    assert changed == (lone != {})
    if lone:
        assert gap(solve(adapters, name, 4, **lone).rows, total(adapters)) <= SVD_ROUNDING


@pytest.mark.parametrize("name", METHODS)
def test_it_is_spread_where_that_is_said(name: str) -> None:
    method = method_of(name, {})
    few, many = (method.spread(n, SIDE, SIDE, 4) is not None for n in (FEW, MANY))
    said = FACTS[name].spread.partition(",")[0]
    assert {"no": (False, False), "yes": (True, True)}.get(said, (False, True)) == (few, many)


def test_it_describes_all_or_one() -> None:
    every = describe()
    assert [m["name"] for m in every["methods"]] == list(METHODS)
    assert [p["name"] for p in every["presets"]] == list(PRESETS)
    one = describe("iso")
    assert (len(one["methods"]), len(one["presets"])) == (1, 1)
    [lego] = describe("lego")["methods"]
    assert lego["options"][0] == {
        "name": "n_init",
        "default": 10,
        "values": "a whole number of at least 1 and at most 1000000",
        "help": "Restarts of k-means; the one of least inertia is kept.",
    }
    with pytest.raises(InvalidOption, match="Did you mean knots"):
        describe("knot")


def test_values_say_words_and_bounds() -> None:
    assert values_of("density") == "a number above 0 and at most 1"
    assert values_of("output_reweight") == "source-rank, pool, none, a number"
    assert values_of("balance") == "true, false"
    assert all(values_of(name) for name in keywords_of(MethodOptions))
