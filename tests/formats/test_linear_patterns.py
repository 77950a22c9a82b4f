"""The matcher in linear time answers as Python's does, or not at all."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lego_ray.formats.linear_patterns import linear_matcher

PATHS = (
    "model.layers.3.self_attn.q_proj",
    "model.language_model.layers.11.mlp.down_proj",
    "model.visual.blocks.0.attn.qkv",
    "model.visual.blocks.0.attn.proj",
    "model.embed_tokens",
    "lm_head",
    "",
)
WORDS = "k_proj|v_proj|q_proj|out_proj|fc1|fc2|o_proj|gate_proj|up_proj|down_proj|proj|qkv"
# As Unsloth writes it for a model with vision and text.
UNSLOTH = (
    r"(?:.*?(?:vision|image|visual|patch|language|text).*?"
    r"(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?"
    rf"(?:{WORDS}).*?)|(?:\bmodel\.layers\.[\d]{{1,}}\."
    rf"(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)\.(?:(?:{WORDS})))"
)
PIECES = st.sampled_from(
    (
        *(
            *"ab.|()*+?^$-]",
            "(?:",
            "(?P<n>",
            "[",
            "[^",
            "]",
            "\\.",
            "\\b",
            "\\B",
            "\\d",
            "\\w",
            "\\s",
        ),
        *(
            "{2}",
            "{1,}",
            "{,2}",
            "{0,2}",
            "{",
            "}",
            "\\<",
            "\\>",
            "\\+",
            "\\-",
            "[ab]",
            "[^a]",
            "[]a]",
        ),
        *(
            "&&",
            "--",
            "[a-b]",
            "(?!a)",
            "(?<=a)",
            "\\1",
            "\\Z",
            "\\A",
            "(?i)",
            "\\x61",
            "*?",
            "++",
            "A",
        ),
    )
)


def test_unsloths_expression_is_matched_and_quickly() -> None:
    matches = linear_matcher(UNSLOTH, PATHS)
    assert matches is not None
    found = [path for path in PATHS if matches(path)]
    assert found == list(PATHS[:4]) == [path for path in PATHS if re.fullmatch(UNSLOTH, path)]
    many = [f"model.language_model.layers.{n}.self_attn.q_proj" for n in range(2000)]
    matches = linear_matcher(UNSLOTH, many)
    assert matches is not None
    assert all(map(matches, many))


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of sets that may come to mean another thing
@given(st.lists(PIECES, max_size=9).map("".join), st.lists(st.text("ab.-+<>A", max_size=6)))
def test_it_answers_as_pythons_matcher(expression: str, texts: list[str]) -> None:
    try:
        pattern = re.compile(expression)
    except re.error:
        assume(False)
    matches = linear_matcher(expression, texts)
    if matches is not None:
        assert [bool(matches(text)) for text in texts] == [
            pattern.fullmatch(text) is not None for text in texts
        ]


@pytest.mark.parametrize(
    "expression",
    [
        *(
            "a++",
            "a?+",
            r"\<a",
            r"a\>",
            r"\B",
            r"\b{start}",
            "[a[b]",
            "[a&&b]",
            "[a--b]",
            "(?i)a",
            "(?=a)a",
        ),
        *(r"(a)\1", r"a\Z", "(a{900}){900}", "(?>a)", "a" * 20_001),
    ],
)
def test_what_may_mean_another_thing_is_not_matched(expression: str) -> None:
    assert linear_matcher(expression, ["a"]) is None


def test_letters_of_other_scripts_are_not_matched() -> None:
    assert linear_matcher(r".*\d", ["layers.٣"]) is None
    assert linear_matcher(r".*", ["a\n"]) is None


def test_a_hostile_expression_is_matched() -> None:
    path = "a" * 200
    matches = linear_matcher("(?:(?:a|a)*)*b", [path])
    assert matches is not None
    assert not matches(path)  # Python's matcher would not end
    assert linear_matcher(r"(?:.*a){40}b", [path] * 10_000) is None
