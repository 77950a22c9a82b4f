"""A library's recipe file: what it says, and every fault with its path."""

from __future__ import annotations

import pickle

import pytest

from lego_ray.errors import RecipeError
from lego_ray.planning.group_options import GroupOptions
from lego_ray.planning.recipe_file import LibraryRecipe, parse_recipe_file

GOOD = """
sources: [zoo, s3://zoo/more]
catalog: catalog
output: library
full_weights: drop
defaults: {rank: 16, method: lego, seed: 3, options: {n_init: 3}}
merges:
  - name: summarize
    where: tags.task = 'summarize' and rank <= 16
  - name: french
    adapters: [customers/*-fr, other]
    rank: 8
    options: {tol: 0.5}
    weights: {other: 2}
    output: elsewhere
  - name: sums
    method: svd
    exclude: [bad*]
    output_scale: 0.5
"""


def parse(text: str) -> LibraryRecipe:
    return parse_recipe_file(text, "r.yaml")


def faults(text: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        parse(text)
    assert str(caught.value).startswith("r.yaml: ")
    assert pickle.loads(pickle.dumps(caught.value)).faults == caught.value.faults
    return [*caught.value.faults]


def test_what_a_file_says() -> None:
    library = parse(GOOD)
    assert library.sources == ("zoo", "s3://zoo/more")
    assert (library.catalog, library.output) == ("catalog", "library")
    first, french, sums = library.entries
    assert first.where == "tags.task = 'summarize' and rank <= 16"
    assert (first.recipe.rank, first.recipe.seed, first.recipe.full_weights) == (16, 3, "drop")
    assert first.recipe.options["n_init"] == 3
    assert french.adapters == ("customers/*-fr", "other")
    assert (french.recipe.rank, french.recipe.weights) == (8, {"other": 2.0})
    assert (french.recipe.options["n_init"], french.recipe.options["tol"]) == (3, 0.5)
    assert french.output == "elsewhere"
    # Options of the defaults are of the default method, and none of another's.
    assert (sums.recipe.method, sums.recipe.exclude, sums.recipe.output_scale) == (
        "svd",
        ("bad*",),
        0.5,
    )


def test_every_fault_is_named_with_its_path() -> None:
    assert faults(
        """
        sources: []
        catlog: x
        defaults: {rank: 16, sead: 1}
        merges:
          - {name: one, rnak: 3}
          - {name: two, rank: "4", sites: {q_proj: {rnk: 3}}}
          - {name: th/ree}
          - {}
        """
    ) == [
        "sources: []; expected a list of at least 1",
        "defaults.sead: no such key. Did you mean seed?",
        "merges[0].rnak: no such key. Did you mean rank?",
        "merges[1].rank: '4'; expected auto or a whole number of at least 1",
        "merges[1].sites.q_proj.rnk: no such key. Did you mean rank?",
        "merges[2].name: 'th/ree'; expected at most 200 letters, digits, dots, dashes and underscores",
        "merges[3].name: missing",
        "catlog: no such key. Did you mean catalog?",
    ]


def test_values_are_checked_as_those_of_a_merge_are_and_all_at_once() -> None:
    found = faults(
        """
        sources: [zoo]
        merges:
          - {name: one, rank: 0, dtype: F8, options: {n_init: 0, ninit: 3, tol: 7}}
          - {name: two, rank: 4, method: legoo}
          - {name: two, rank: 4, method: svd, weights: {a: .inf}}
          - {name: four, options: {n_init: abc}}
          - {name: two, rank: 4}
          - {name: five, rank: 4}
          - {name: five, rank: 4}
        """
    )
    assert [fault.partition(": ")[0] for fault in found] == [
        "merges[0].rank",
        "merges[0].dtype",
        "merges[0].options.n_init",
        "merges[0].options.ninit",
        "merges[0].options.tol",
        "merges[1].method",
        "merges[2].name",
        "merges[2].weights",
        "merges[3].rank",
        "merges[3].options.n_init",
        "merges[4].name",
        "merges[6].name",
    ]
    assert found[3].endswith("Did you mean n_init?")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: 1\na: 2", "line 2, column 1: a is there twice"),
        ("a: &x 1\nb: *x", "line 2, column 4: *x is an alias; write it out"),
        ("a: {<<: {b: 1}}", "line 1, column 5: a key is not a plain word"),
        ("{[1]: 2}", "line 1, column 2: a key is not a plain word"),
        ("[" * 9999, "line 1, column 33: it is nested too deeply"),
        ("a: !!python/object/apply:os.getcwd []", "os.getcwd is a tag; leave it out"),
        ("a: 2026-13-77", "month must be in 1..12"),
        ("- 1", "it is not a mapping"),
        ("", "it is not a mapping"),
        ("a: [", "line 1, column 5: "),
        ("a: \x00", "special characters are not allowed"),
        ("x: " + "y" * (4 << 20), "it has 4194307 characters"),
        ("merges: [{name: a, rank: 4}]", "sources: missing"),
    ],
)
def test_what_is_no_plain_yaml_or_no_recipe_is_refused(text: str, fault: str) -> None:
    [found] = faults(text)
    assert fault in found


def test_ranks_go_together_and_sites_have_their_own() -> None:
    library = parse(
        """
        sources: [zoo]
        defaults: {rank: 8, sites: {q_proj: {rank: 4}}}
        merges:
          - {name: fixed, sites: {"*.mlp.*": {rank: 2, scale: 0.5}}}
          - {name: auto, rank: auto, rank_error: 0.2, sites: {q_proj: {}}}
          - {name: budget, rank_budget: 6, sites: {q_proj: {}}, output_scale: sum-fit*0.5}
        """
    )
    fixed, auto, budget = library.entries
    assert fixed.site_ranks == {"q_proj": 4, "*.mlp.*": 2}
    assert fixed.recipe.site_scales == {"*.mlp.*": 0.5}
    assert (auto.recipe.rank, auto.recipe.rank_error, auto.site_ranks) == (None, 0.2, {})
    assert (budget.recipe.rank, budget.recipe.rank_budget) == (None, 6)
    assert budget.recipe.output_scale == "sum-fit*0.5"


def test_faults_of_ranks_and_sites() -> None:
    found = faults(
        """
        sources: [zoo]
        merges:
          - {name: a, rank: auto, rank_error: 2}
          - {name: b, rank: 4, rank_budget: 4}
          - {name: c, rank: auto, sites: {q_proj: {rank: 3}}}
          - {name: d, rank: 4, sites: {q_proj: {scale: 0}}}
          - {name: e, rank: 4, output_scale: loud}
        """
    )
    assert [fault.partition(": ")[0] for fault in found] == [
        "merges[0].rank",
        "merges[1].rank",
        "merges[2].sites",
        "merges[3].sites",
        "merges[4].output_scale",
    ]


def test_groups_are_a_number_auto_or_a_mapping() -> None:
    library = parse(
        """
        sources: [zoo]
        defaults: {rank: 4}
        merges:
          - {name: none}
          - {name: auto, groups: auto}
          - {name: some, groups: 3}
          - {name: bound, groups: {alone_below: 0.1}}
          - {name: both, groups: {count: 2, alone_below: -1}}
        """
    )
    assert [entry.groups for entry in library.entries] == [
        None,
        GroupOptions(None, None),
        GroupOptions(3, None),
        GroupOptions(None, 0.1),
        GroupOptions(2, -1.0),
    ]


def test_faults_of_groups() -> None:
    assert faults(
        """
        sources: [zoo]
        defaults: {rank: 4}
        merges:
          - {name: a, groups: 0}
          - {name: b, groups: many}
          - {name: c, groups: {count: 1.5, alone_below: 2}}
          - {name: d, groups: {alone_blow: 1}}
          - {name: e, groups: true}
        """
    ) == [
        "merges[0].groups: 0; expected auto or a whole number of at least 1",
        "merges[1].groups: 'many'; expected auto or a whole number of at least 1",
        "merges[2].groups.count: 1.5; expected auto or a whole number of at least 1",
        "merges[2].groups.alone_below: 2; expected at most 1",
        "merges[3].groups.alone_blow: no such key. Did you mean alone_below?",
        "merges[4].groups: True; expected auto or a whole number of at least 1",
    ]


def test_groups_are_a_merges_own() -> None:
    [fault] = faults("sources: [zoo]\ndefaults: {rank: 4, groups: 2}\nmerges: [{name: a}]")
    assert fault.startswith("defaults.groups: no such key.")


def test_no_merge_has_the_name_of_a_group() -> None:
    assert faults(
        """
        sources: [zoo]
        defaults: {rank: 4}
        merges: [{name: fit, groups: auto}, {name: fit-2}, {name: fit-x}, {name: fit-1, groups: 2}]
        """
    ) == ["merges[1].name: fit-2 is what a group of fit may be called"]


def test_a_catalog_may_stand_for_the_sources() -> None:
    library = parse("catalog: c\nmerges: [{name: a, rank: 4}]")
    assert (library.sources, library.catalog) == ((), "c")


def test_a_list_of_sources_without_quotes_is_told_to_have_them() -> None:
    with pytest.raises(RecipeError, match=r'line 1, .*; put the name of a list in quotes: "@list'):
        parse_recipe_file("sources: [@list.txt]\nmerges: [{name: a, rank: 2}]\n", "library.yaml")
