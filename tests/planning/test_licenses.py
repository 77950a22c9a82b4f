"""Licenses of the sources are carried on, and what may not go together is said."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lego_ray.formats.record import AdapterRecord
from lego_ray.planning.licenses import LISTED, Terms, license_conflicts, licenses_of, terms_of
from lego_ray.planning.planner import make_plan
from lego_ray.planning.recipe import Recipe
from tests.planning.records import adapter, inventory


def under(*licenses: str) -> list[AdapterRecord]:
    return [replace(adapter(f"a{i}"), license=each) for i, each in enumerate(licenses)]


def test_each_license_is_named_once_in_one_order_whatever_its_case() -> None:
    assert licenses_of(under("MIT", "apache-2.0", "", "mit")) == ("apache-2.0", "mit", "unknown")
    assert licenses_of(under("mit, CC-BY-4.0")) == ("cc-by-4.0", "mit")
    assert licenses_of([]) == ()


@pytest.mark.parametrize(
    ("license", "terms"),
    [
        ("apache-2.0", Terms.CREDIT),
        ("cc-by-4.0", Terms.CREDIT),
        ("cc0-1.0", Terms.CREDIT),
        ("bsd-3-clause", Terms.CREDIT),
        ("cc-by-nc-4.0", Terms.NO_COMMERCE),
        ("cc-by-nd-4.0", Terms.NO_CHANGES),
        ("cc-by-sa-3.0", Terms.SAME_LICENSE),
        ("cc-by-nc-nd-4.0", Terms.NO_COMMERCE | Terms.NO_CHANGES),
        ("cc-by-nc-sa-4.0", Terms.NO_COMMERCE | Terms.SAME_LICENSE),
        ("gpl-3.0", Terms.SAME_LICENSE),
        ("gpl-2.0-or-later", Terms.SAME_LICENSE),
        ("lgpl-2.1", Terms.SAME_LICENSE),
        ("agpl-3.0", Terms.SAME_LICENSE),
        ("llama2", Terms.OWN_RULES),
        ("llama3.1", Terms.OWN_RULES),
        ("gemma", Terms.OWN_RULES),
        ("openrail", Terms.OWN_RULES),
        ("openrail++", Terms.OWN_RULES),
        ("creativeml-openrail-m", Terms.OWN_RULES),
        ("bigcode-openrail-m", Terms.OWN_RULES),
        ("other", None),
        ("unknown", None),
        ("mitten", None),
        ("do-what-acme-says", None),
    ],
)
def test_what_licenses_are_about(license: str, terms: Terms | None) -> None:
    assert terms_of(license) == terms


@pytest.mark.parametrize(
    "licenses",
    [
        ("apache-2.0", "mit", "cc-by-4.0"),
        ("cc-by-nc-4.0", "cc-by-nc-4.0"),
        ("gpl-3.0", "gpl-3.0"),
        ("llama3", "llama3"),
        ("other", "other"),
        ("", ""),
        (),
    ],
)
def test_licenses_that_go_together_are_passed_over(licenses: tuple[str, ...]) -> None:
    assert license_conflicts(under(*licenses)) == ()


@pytest.mark.parametrize(
    ("licenses", "says"),
    [
        (("cc-by-nd-4.0",), ["cc-by-nd-4.0 of /zoo/a0 lets nothing derived be passed on"]),
        (("cc-by-nc-4.0", "mit"), ["cc-by-nc-4.0 of /zoo/a0 allows no commercial use, where mit"]),
        (("mit", "gpl-3.0"), ["gpl-3.0 of /zoo/a1 asks for itself on what is derived, beside mit"]),
        (
            ("cc-by-sa-4.0", "gpl-3.0"),
            ["cc-by-sa-4.0 of /zoo/a0 asks for itself", "gpl-3.0 of /zoo/a1 asks for itself"],
        ),
        (
            ("cc-by-nc-sa-4.0", "cc-by-nc-4.0"),
            ["cc-by-nc-sa-4.0 of /zoo/a0 asks for itself"],
        ),
        (("llama3", "apache-2.0"), ["llama3 of /zoo/a0 has rules of its own to hand on"]),
        (("other", "mit"), ["other of /zoo/a0 is not one that lego-ray knows, beside mit"]),
        (("mit", "", ""), ["no license is named by 2 adapters, such as /zoo/a1"]),
        (("gemma", ""), ["no license is named by /zoo/a1"]),
    ],
)
def test_what_may_not_go_together_is_said(licenses: tuple[str, ...], says: list[str]) -> None:
    found = license_conflicts(under(*licenses))
    assert len(found) == len(says)
    for sentence, wanted in zip(found, says, strict=True):
        assert wanted in sentence


def test_an_adapter_of_the_hub_without_a_license_is_named_even_alone() -> None:
    [own] = under("")
    hub = replace(own, uri="hf://someone/adapter@abc")
    assert license_conflicts([own]) == ()
    [sentence] = license_conflicts([hub])
    assert "hf://someone/adapter@abc" in sentence


def test_an_adapter_that_names_two_licenses_is_under_both() -> None:
    [sentence] = license_conflicts(under("mit, cc-by-nc-4.0"))
    assert "cc-by-nc-4.0 of /zoo/a0 allows no commercial use, where mit" in sentence


def test_a_warning_stays_short_in_a_zoo_of_many_licenses() -> None:
    many = [f"house-rules-{i}" for i in range(LISTED + 3)]
    found = license_conflicts(under("gpl-3.0", *many))
    assert len(found) == len(many) + 1
    assert all(sentence.count("house-rules") <= LISTED + 1 for sentence in found)
    assert "and 3 more" in found[0]


def test_a_plan_carries_licenses_and_warns_of_conflicts() -> None:
    made = make_plan(Recipe(name="m", rank=4), inventory(*under("mit", "cc-by-nc-4.0")))
    assert made.licenses == ("cc-by-nc-4.0", "mit")
    assert made.license_conflicts == license_conflicts(made.adapters) != ()
    assert made.warnings == made.license_conflicts
    told = made.as_json()
    assert told["licenses"] == ["cc-by-nc-4.0", "mit"]
    assert told["license_conflicts"] == list(made.license_conflicts)
    assert told["warnings"] == list(made.license_conflicts)
