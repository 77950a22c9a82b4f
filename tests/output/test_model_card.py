"""The card of a merge, from a plan over adapters with names that mean harm."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

import lego_ray
from lego_ray.formats.record import Refused
from lego_ray.output.card.figures import SiteFigures, figures_of
from lego_ray.output.card.model_card import LISTED, model_card
from lego_ray.planning.plan import Plan
from tests.output.test_markdown import HOSTILE
from tests.storage.fake_hub_writes import card_errors
from tests.zoo import write_zoo

VERSIONS = {"lego-ray": "0.1.0", "python": "3.12.1"}
FIGURES = [
    SiteFigures("layers.1.q", 12, 4, 0.5, 1.25),
    SiteFigures("layers.0.q", 9, 3, 0.25, 1.0),
    SiteFigures("layers.2.q", 12, 4, math.inf, math.nan),
]


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    zoo = write_zoo(tmp_path_factory.mktemp("card") / "zoo", 3)
    return lego_ray.plan(zoo, rank=4, name="qa", preset="paper")


def test_it_says_what_it_is_and_where_it_came_from(plan: Plan) -> None:
    card = model_card(plan, FIGURES, VERSIONS).decode()
    for adapter in plan.adapters:
        assert f"`{Path(adapter.uri).name}` | `{adapter.adapter_id[:12]}` | 4 | 1 | - |" in card
    for said in (
        f"`{plan.digest}`",
        "# `qa`",
        "| n_init | `10` |",
        "python 3.12.1",
        "| seed | 0 |",
    ):
        assert said in card
    assert "PeftModel.from_pretrained" in card
    assert "lego-ray verify" in card
    assert card_errors(card) == []


def test_sources_on_the_hub_are_linked_at_their_commit(plan: Plan) -> None:
    commit = "0123456789" * 4
    where = f"hf://org/zoo@{commit}/some folder/(a)"
    first = replace(plan.adapters[0], uri=where, revision=commit)
    card = model_card(replace(plan, adapters=(first, *plan.adapters[1:])), [], {}).decode()
    page = f"https://huggingface.co/org/zoo/tree/{commit}/some%20folder/%28a%29"
    assert f"[`org/zoo@01234567/some folder/(a)`]({page})" in card


def every_part(plan: Plan) -> Plan:
    """A plan whose card has every section, and names with marks of Markdown, HTML and templates."""
    one = plan.adapters[0]
    commit = "0123456789" * 4
    places = (
        *("/zoo/a|b", "/zoo/`c`", "s3://zoo/<b>d", "/zoo/naïve\n日本語", "/zoo/{{ 7 * 7 }}"),
        f"hf://org/zoo@{commit}/some folder/(a)",
    )
    licenses = ("mit", "gpl-3.0", "", "Our | `own`", "mit, cc-by-4.0", "{% raw %}")
    adapters = [
        replace(
            one,
            uri=uri,
            license=license,
            revision=commit,
            sites=(replace(one.sites[0], rank=2 + i), *one.sites[1:]),
        )
        for i, (uri, license) in enumerate(zip(places, licenses, strict=True))
    ]
    refused = [
        Refused(f"/zoo/bad{i}", "refused", f"/zoo/bad{i}: DoRA {i}") for i in range(LISTED + 2)
    ]
    return replace(
        plan,
        adapters=tuple(adapters),
        weights=(1.0, 0.5, 1 / 3, -2.0, 1e21, 1e-7),
        base_model="org/base-7b",
        refused=tuple(refused),
        limits=("PEFT before 0.18 refuses /zoo/a|b.", "/zoo/bad1 was <b>passed over</b>."),
        recipe=replace(
            plan.recipe,
            name="every `part`",
            parent="5d9f" * 16,
            output_scale="sum-fit*0.5",
            site_scales={"*.q_proj": 0.5, "layers.0.v_proj": 1 / 3},
        ),
    )


def kohya(plan: Plan) -> Plan:
    """A plan of another layout, with nothing but what every card has."""
    alone = replace(plan.recipe, name="style", output_scale=0.7, rank_error=0.3)
    return replace(plan, format="kohya", base_model="", recipe=alone)


@pytest.mark.parametrize(("name", "changed"), [("every-part", every_part), ("kohya", kohya)])
def test_its_bytes_are_those_of_releases_before(
    name: str, changed: Callable[[Plan], Plan], plan: Plan
) -> None:
    """But for the merge's own digest, which the arithmetic of its method is a part of now."""
    kept = (Path(__file__).parent / "cards" / f"{name}.md").read_text()
    then = kept.replace(plan.earlier[0], plan.digest)
    assert model_card(changed(plan), FIGURES, VERSIONS).decode() == then


def named(text: str) -> str:
    """As a place may be called: what is not UTF-8 is refused where places are read."""
    return text.encode("utf-8", "replace").decode()


def test_names_that_mean_harm_are_shown_and_mean_nothing(plan: Plan) -> None:
    one = plan.adapters[0]
    adapters = tuple(
        replace(one, uri=f"s3://zoo/{named(text)}", license=text, base_model=text)
        for text in HOSTILE
    )
    hostile = replace(
        plan,
        base_model=HOSTILE[-2],
        adapters=adapters,
        weights=(1.0,) * len(adapters),
        refused=tuple(Refused(f"s3://zoo/{text}", "refused", text) for text in HOSTILE),
        recipe=replace(plan.recipe, name=HOSTILE[0].replace("/", "")),
    )
    sites = [replace(FIGURES[0], site=text, relative_error=i) for i, text in enumerate(HOSTILE)]
    card = model_card(hostile, sites, {text: text for text in HOSTILE}).decode()
    body = card.split("---\n", 2)[2]
    tokens = MarkdownIt("gfm-like", {"html": True, "linkify": False}).parse(body)
    assert [t.type for t in tokens if t.type == "html_block"] == []
    titles = [tokens[i + 1].content for i, t in enumerate(tokens) if t.type == "heading_open"]
    assert titles[1:] == ["Use", "Made by", "Sources", "Figures", "Licenses", "Left out"]
    inline = [child for t in tokens for child in t.children or ()]
    assert not [t for t in inline if t.type in ("link_open", "image")]
    assert {t.content for t in inline if t.type == "html_inline"} <= {"<code>", "</code>"}
    rows = sum(t.type == "tr_open" for t in tokens)
    cells = sum(t.type in ("td_open", "th_open") for t in tokens)
    assert rows > 2 * len(HOSTILE) - 1
    assert cells == 2 * (7 + len(plan.recipe.options)) + 5 * (1 + len(HOSTILE)) + 5 * 5
    assert card_errors(card) == []


def test_licenses_are_named_as_the_plan_has_them(plan: Plan) -> None:
    def card(*licenses: str) -> str:
        adapters = zip(plan.adapters, licenses, strict=True)
        named = tuple(replace(a, license=license) for a, license in adapters)
        return model_card(replace(plan, adapters=named), [], {}).decode()

    assert '\nlicense: "mit"\n' in card("mit", "mit", "mit")
    assert '\nlicense: ["gpl-3.0", "mit", "unknown"]\n' in card("mit", "", "gpl-3.0")
    assert '\nlicense: "other"\nlicense_name: "our-own"\n' in card(*["our own"] * 3)
    assert "## Licenses" in card("mit", "", "gpl-3.0")
    assert "\nlicense" not in card("", "", "").partition("\n# ")[0]


def test_a_long_list_of_sources_is_cut_and_says_so(plan: Plan) -> None:
    many = replace(plan, adapters=plan.adapters[:1] * 300, weights=plan.weights[:1] * 300)
    card = model_card(many, [], {}).decode()
    assert card.count(f"`{Path(plan.adapters[0].uri).name}`") == LISTED
    assert "... and 100 more" in card


def test_figures_are_the_smallest_the_middle_and_the_largest() -> None:
    found = figures_of(FIGURES)
    assert found[0] == ("MSUs", "9", "12", "12", "layers.1.q")
    assert found[2:] == [
        ("relative error to the sum of the updates", "0.250", "0.250", "0.500", "layers.1.q"),
        ("norm, as a share of the sum's", "1.000", "1.000", "1.250", "layers.1.q"),
    ]
    assert figures_of(FIGURES[::-1]) == found
    assert [row[0] for row in figures_of(FIGURES[2:])] == ["MSUs", "merged rank"]
    assert figures_of(FIGURES[:1])[0][-1] == ""
    assert figures_of([]) == []
