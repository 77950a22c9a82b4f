"""Pages as text: what they say, and that names mean nothing as markup."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser

import pytest

from lego_ray.reporting.answer import answer
from lego_ray.reporting.axis import OTHER, axis_of
from lego_ray.reporting.facts import Facts, Kept, short_names
from lego_ray.reporting.numbers import duration, number, percent
from lego_ray.reporting.similarity import arranged, similarity
from lego_ray.reporting.style import DARK, LIGHT, PANEL, SERIES
from lego_ray.reporting.write import page
from tests.reporting.page_facts import facts

EVIL = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</svg></style><b>&amp;",
    "$\\frac{a}{0}$ and $x",
    "\u202egnp.exe",
    "naïve/日本語",
    "{{ 7 * 7 }}{% raw %}",
)


class Tags(HTMLParser):
    """Tags, attributes and identifiers of a page."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.names: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.feed(data.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            self.names.append(name)
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "src", "xlink:href", "action", "data"):
                self.links.append(value or "")


@cache
def of_twelve() -> bytes:
    """The page of a merge of twelve adapters."""
    return page(facts(12))


def test_names_mean_nothing_as_markup_and_are_shown_as_they_are() -> None:
    names = [*EVIL, *(f"a{i}" for i in range(10 - len(EVIL)))]
    plain, hostile = Tags(page(facts(10))), Tags(data := page(facts(10, names=names)))
    assert "script" not in hostile.tags
    assert "img" not in hostile.tags
    assert not any(name.startswith("on") for name in hostile.names)
    assert hostile.tags.count("b") == 0
    # Except for ticks and labels that had no room, the page is built of the same parts.
    for tag in ("table", "tr", "td", "svg", "title", "p"):
        assert hostile.tags.count(tag) == plain.tags.count(tag)
    text = data.decode()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "\u202e" not in text
    assert "日本語" in text
    assert "$\\frac{a}{0}$ and $x" in text
    assert "{{ 7 * 7 }}{% raw %}" in text


def test_names_of_modules_and_stages_mean_nothing_as_markup_either() -> None:
    whole = facts(3, layers=2)
    assert whole.recorded is not None
    kinds = ("</svg><script>alert(1)</script>", "\x01&amp;<b>", '"><img src=x>')
    sites = [
        replace(site, site=f"model.layers.{i // 3}.{kinds[i % 3]}")
        for i, site in enumerate(whole.sites)
    ]
    merge = {**whole.recorded.merge}
    merge["stages"] = [{"stage": kind, "seconds": 1.0, "bytes": 1} for kind in kinds]
    recorded = replace(whole.recorded, merge=merge)
    plain = Tags(page(facts(3, layers=2)))
    hostile = Tags(data := page(replace(whole, sites=sites, recorded=recorded)))
    assert not {"script", "img", "b"} & set(hostile.tags)
    assert hostile.tags.count("svg") == plain.tags.count("svg")
    assert b"\x01" not in data
    assert "\ufffd&amp;amp;&lt;b&gt;" in data.decode()


def test_a_page_stands_alone_and_its_identifiers_are_its_own() -> None:
    found = Tags(data := of_twelve())
    assert len(found.ids) == len(set(found.ids))
    for link in found.links:
        assert link.startswith("data:image/png;base64,") or link[1:] in found.ids, link
    assert b"default-src 'none'" in data
    assert not re.search(rb"url\((?!#)|@import|<link|<script", data)
    for name in re.findall(rb"url\(#([^)]+)\)", data):
        assert name.decode() in found.ids


def test_the_same_facts_give_the_same_bytes() -> None:
    assert page(facts(12)) == of_twelve()


def test_every_color_of_a_figure_has_a_dark_one() -> None:
    assert len({*LIGHT.values(), PANEL}) == len(LIGHT) + 1
    assert LIGHT.keys() == DARK.keys()
    figures = re.findall(r"<svg.*?</svg>", of_twelve().decode(), re.DOTALL)
    found = re.findall(r"(?:fill|stroke): (#\w+)", "".join(figures))
    assert set(found) <= {*LIGHT.values(), PANEL}
    assert {LIGHT[name] for name in ("ink", "axis", "line", "c0", "c1", "c2")} <= set(found)


def test_long_lists_are_cut() -> None:
    whole = facts(40)
    sources = [
        {**source, "license": f"license-{i}"} for i, source in enumerate(whole.manifest["sources"])
    ]
    text = page(replace(whole, manifest={**whole.manifest, "sources": sources})).decode()
    said = text.split("Licenses: ")[1].split("</p>")[0]
    assert said.startswith("license-0 (1), license-1 (1), ")
    assert said.endswith("license-9 (1), ....")


def test_sections_without_their_data_say_which_flag_brings_them() -> None:
    whole = facts(12)
    text = page(replace(whole, sites=(), recorded=None, measured=None)).decode()
    assert text.count('class="missing"') == 8
    assert "<svg" not in text
    for name, flag in (
        ("answer", "--sources"),
        ("map", "--sources"),
        ("clusters", "--catalog"),
        ("lineage", "--catalog"),
        ("flow", "--catalog"),
        ("errors", "--catalog"),
        ("norms", "--catalog or --sources"),
        ("stages", "--catalog"),
    ):
        section = text.split(f'<section id="{name}"')[1].split("</section>")[0]
        assert flag in section
    assert "UnsupportedAdapter (1)" in text


def kept_at(whole: Facts, *shares: float | None) -> Facts:
    """A merge that kept these shares of its adapters, which are named by their number."""
    assert whole.measured is not None
    kept = [Kept(f"adapter {i}", 1.0, share, 0.5) for i, share in enumerate(shares)]
    return replace(whole, measured=replace(whole.measured, kept=kept))


def test_the_page_leads_with_what_each_adapter_kept() -> None:
    found = answer(kept_at(facts(3), 0.5, 0.1, -0.25), None)
    assert found is not None
    assert found.verdict == (
        "The merge keeps a small part of each adapter's update: 10 % in the median, from -25.0 % "
        "(adapter 2) to 50 % (adapter 0). 1 adapter kept less than half of the median."
    )
    bars = [bar for bar in found.bars if bar]
    assert [bar.share for bar in bars] == [-0.25, 0.1, 0.5]
    assert [(bar.start, bar.width) for bar in bars] == [(0.0, 20.0), (20.0, 8.0), (20.0, 40.0)]
    assert found.whole == 100
    assert any("adapter 2" in each and "--weight" in each for each in found.advice)
    text = of_twelve().decode()
    assert text.index('<section id="answer"') < text.index('<section id="inputs"')


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (1.2, "has more of"),
        (1.0, "keeps almost all of"),
        (0.7, "keeps most of"),
        (0.5, "keeps about half of"),
        (0.2, "keeps a small part of"),
        (0.01, "keeps almost nothing of"),
    ],
)
def test_a_verdict_is_a_sentence(share: float, words: str) -> None:
    found = answer(kept_at(facts(2), share, share, None), None)
    assert found is not None
    assert found.verdict.startswith(f"The merge {words} each adapter's update")
    assert found.verdict.endswith(f": {percent(share)} in the median.")


def test_many_adapters_have_bars_of_the_least_and_the_most_kept() -> None:
    found = answer(kept_at(facts(3), *(i / 100 for i in range(100))), None)
    assert found is not None
    assert (len(found.bars), found.left_out) == (25, 76)
    assert [i for i, bar in enumerate(found.bars) if bar is None] == [12]
    text = page(kept_at(facts(3), *(i / 100 for i in range(100)))).decode()
    assert "76 adapters in the middle are left out here" in text


def test_advice_is_given_where_it_helps() -> None:
    whole = kept_at(facts(12), 0.5, 0.5)
    assert whole.measured is not None

    def advised(**errors: float) -> str:
        assert whole.measured is not None
        measured = replace(whole.measured, errors=errors)
        found = answer(replace(whole, measured=measured), None)
        assert found is not None
        return " ".join(found.advice)

    assert advised(least_squares_scale=1.1, relative_error_to_sum=0.1) == ""
    assert "--output-scale sum-fit" in advised(least_squares_scale=1.6)
    assert "--output-scale sum-fit" in advised(least_squares_scale=0.5)
    assert "plan --errors" in advised(relative_error_to_sum=0.5)
    text = of_twelve().decode()
    assert "fall into 3 groups of alike ones. Merge each group by itself: groups: auto" in text


def test_without_sources_the_answer_is_what_the_catalog_knows() -> None:
    whole = facts(5)
    found = answer(replace(whole, measured=None), None)
    assert found is not None
    assert "of the norm of the sum away from the sum" in found.verdict
    assert not found.bars
    assert answer(replace(whole, measured=None, sites=()), None) is None


def test_the_heat_map_has_alike_adapters_side_by_side() -> None:
    few, many = arranged(facts(12)), arranged(facts(201))
    assert few is not None
    assert many is not None
    found = similarity(few)
    assert found.heat is not None
    assert len(found.heat.marks) == 12 * 11
    assert [len(names) for names in found.suggested] == [4, 4, 4]
    for names in found.suggested:
        assert len({int(name[-4:]) % 3 for name in names}) == 1, "a family is a group"
    assert similarity(many).heat is None
    text = of_twelve().decode()
    assert text.index('id="heat-figure"') < text.index('id="map-figure"')
    assert "There are too many adapters for a heat map" in page(facts(201)).decode()


def test_a_method_that_does_not_cluster_says_so() -> None:
    whole = facts(12)
    assert whole.recorded is not None
    sites = [replace(site, inertia=None) for site in whole.sites]
    recorded = replace(whole.recorded, clusters=None, reaches=None)
    text = page(replace(whole, sites=sites, recorded=recorded)).decode()
    assert text.count("This method mixes MSUs") == 2
    assert "This method does not cluster" in text
    assert "has the largest" in text  # lineage is there whatever the method
    assert "No lineage is recorded" not in text


def test_a_merge_recorded_without_lineage_says_so() -> None:
    whole = facts(5)
    assert whole.recorded is not None
    text = page(replace(whole, recorded=replace(whole.recorded, shares=[]))).decode()
    assert "No lineage is recorded for this merge" in text


@pytest.mark.parametrize("count", [1, 2])
def test_few_adapters_have_a_page_too(count: int) -> None:
    text = page(facts(count)).decode()
    assert "A map needs three adapters or more" in text
    assert "nan" not in text.lower().replace("nano", "")


def test_a_merge_recorded_before_stages_were_tells_its_time() -> None:
    whole = facts(5)
    assert whole.recorded is not None
    merge = {**whole.recorded.merge, "stages": None}
    text = page(replace(whole, recorded=replace(whole.recorded, merge=merge))).decode()
    assert "The run took 90.0 s. It was recorded by a version that did not record stages." in text


def luminance(color: str) -> float:
    """Relative luminance, as WCAG 2.2 defines it."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_text_and_marks_stand_out(theme: dict[str, str]) -> None:
    for text in ("ink", "muted", "link"):
        assert contrast(theme[text], theme["ground"]) >= 4.5
        assert contrast(theme[text], theme["panel"]) >= 4.5
    for mark in (*SERIES, "axis"):
        assert contrast(theme[mark], theme["ground"]) >= 3


def test_sites_go_by_layer_where_their_names_have_one_stack() -> None:
    axis = axis_of(["model.layers.0.q_proj", "model.layers.0.v_proj", "model.layers.10.q_proj"])
    assert (axis.label, list(axis.positions)) == ("layer", [0, 0, 10])
    assert list(axis.names) == ["q_proj", "v_proj"]


@pytest.mark.parametrize(
    "sites",
    [
        ["model.layers.0.q_proj", "lm_head"],
        ["down_blocks.0.attn.to_q", "up_blocks.0.attn.to_q"],
    ],
)
def test_other_sites_go_one_after_another(sites: list[str]) -> None:
    axis = axis_of(sites)
    assert not axis.by_layer
    assert list(axis.positions) == [1, 2]


FLUX = [
    *(f"lora_unet_double_blocks_{n}_img_attn_{m}" for n in (0, 1, 10) for m in ("proj", "qkv")),
    *(f"lora_unet_single_blocks_{n}_linear1" for n in (0, 37)),
    "lora_te1_text_model_encoder_layers_0_mlp_fc1",
]
DIFFUSERS = [
    f"transformer.{block}.{n}.attn.to_q"
    for block in ("transformer_blocks", "single_transformer_blocks")
    for n in (0, 1)
]
UNET = [
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    "unet.mid_block.attentions.0.proj_in",
    "unet.up_blocks.0.resnets.1.conv1",
    "unet.conv_in",
]


@pytest.mark.parametrize(
    ("sites", "positions", "families", "kinds"),
    [
        (
            FLUX,
            [2, 2, 3, 3, 4, 4, 5, 6, 1],
            {"text encoder": (1, 1), "double": (2, 4), "single": (5, 6)},
            {"img_attn_proj", "img_attn_qkv", "linear1", FLUX[-1]},
        ),
        (DIFFUSERS, [1, 2, 3, 4], {"double": (1, 2), "single": (3, 4)}, {"attn.to_q"}),
        (
            UNET,
            [1, 2, 3, 4, 5],
            {"down": (1, 2), "mid": (3, 3), "up": (4, 4), "other": (5, 5)},
            {"attn1.to_q", "proj_in", "conv1", "conv_in"},
        ),
    ],
    ids=["Flux", "diffusers", "UNet"],
)
def test_blocks_of_image_models_go_by_name(
    sites: list[str],
    positions: list[int],
    families: dict[str, tuple[int, int]],
    kinds: set[str],
) -> None:
    axis = axis_of(sites)
    assert list(axis.positions) == positions
    assert dict(axis.families) == families
    assert set(axis.kinds) == kinds


def test_the_page_has_the_error_by_kind_of_block() -> None:
    known = replace(facts(2, layers=1), recorded=None, measured=None)
    values = zip(UNET, (0.1, 0.3, 0.5, 0.7, 0.9), strict=True)
    sites = [replace(known.sites[0], site=site, error=error) for site, error in values]
    text = page(replace(known, sites=sites)).decode()
    section = text.partition("Error by kind of block")[2].partition("Error by site")[0]
    cells = re.findall(r"<t[dh][^>]*>\s*([^<]*?)\s*</t[dh]>", section)
    assert cells[cells.index("down") :][:5] == ["down", "2", "2", "0.2", "0.3"]
    assert "updates, by block." in text
    assert "Error by kind of block" not in page(known).decode()


def test_no_more_kinds_than_shapes() -> None:
    axis = axis_of([f"layers.{layer}.m{kind}" for layer in range(2) for kind in range(12)])
    assert len(axis.names) == 7
    assert axis.names[-1] == OTHER


def test_names_are_what_tells_adapters_apart() -> None:
    assert short_names(["s3://z/a/x", "s3://z/b/x"]) == ["a/x", "b/x"]
    assert short_names(["/zoo/only"]) == ["only"]
    assert short_names(["/zoo/a", "/zoo/a/b"]) == ["a", "a/b"]
    assert short_names(["/zoo/a", "/zoo/a"]) == ["a", "a (2)"]
    assert short_names([]) == []


def test_numbers_are_for_people() -> None:
    assert [number(v) for v in (None, 1234, 0.0, 0.00012, 12.345, 4321.5)] == [
        *("-", "1,234", "0", "1.20e-04", "12.3", "4,322"),
    ]
    assert [percent(v) for v in (0, 0.004, 0.5, 0.996, 1)] == [
        *("0 %", "0.4 %", "50 %", "99.6 %", "100 %"),
    ]
    assert [duration(v) for v in (0.0, 12.34, 125, 7500)] == [
        *("0.00 s", "12.3 s", "2 min 5 s", "2 h 5 min"),
    ]


def test_notes_on_adapters_are_listed_by_name() -> None:
    found = facts(3)
    assert "What was left out or assumed" not in page(found).decode()
    found.manifest["sources"][1]["notes"] = ["1 module was left out: <b>"]
    text = page(found).decode()
    assert "What was left out or assumed" in text
    assert "1 module was left out: &lt;b&gt;" in text
