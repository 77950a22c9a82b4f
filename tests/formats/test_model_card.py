"""Model cards: what is there is read, garbage is nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_ray.formats.model_card import MAX_FRONT_MATTER, ModelCard, parse_card

CARD = """---
license: apache-2.0
base_model: org/base
tags:
- lora
- base_model:adapter:org/base
- customer=acme
- 3
---
# Title
license: mit
"""


def test_license_and_tags() -> None:
    card = parse_card(CARD.encode())
    assert card.license == "apache-2.0"
    assert card.tags == {
        "lora": "true",
        "base_model": "adapter:org/base",
        "customer": "acme",
        "3": "true",
    }


def test_several_licenses_are_all_read() -> None:
    card = parse_card(b"---\nlicense:\n- mit\n- cc-by-4.0\n- mit\n---\n")
    assert card.license == "mit, cc-by-4.0"


def test_tags_as_a_mapping_and_windows_newlines() -> None:
    text = "---\nlicense: no\ntags:\n  team: search\n  n: 3\n  x: [1]\n---\n".replace("\n", "\r\n")
    assert parse_card(b"\xef\xbb\xbf" + text.encode()) == ModelCard(
        "no", {"team": "search", "n": "3"}
    )


@pytest.mark.parametrize(
    ("text", "base_model"),
    [("org/m", "org/m"), ("[org/m]", "org/m"), ("[a/b, c/d]", ""), ("{a: b}", ""), ("", "")],
)
def test_the_base_model_is_the_one_named(text: str, base_model: str) -> None:
    assert parse_card(f"---\nbase_model: {text}\n---\n".encode()).base_model == base_model


def test_a_license_the_hub_does_not_know_goes_by_its_name() -> None:
    named = b"---\nlicense: [mit, other]\nlicense_name: our-own\n---\n"
    assert parse_card(named).license == "mit, our-own"
    assert parse_card(b"---\nlicense: other\n---\n").license == "other"
    assert parse_card(b"---\nlicense: other\nlicense_name: [a]\n---\n").license == "other"
    assert parse_card(b"---\nlicense_name: our-own\n---\n").license == ""


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"# Title",
        b"---",
        b"---\nlicense: mit",
        b"---\n[1, 2\n---\n",
        b"---\n- a\n- b\n---\n",
        b"---\n? [a]\n: b\n---\n",
        b"---\nlicense: [[mit], {a: b}]\ntags: 3\n---\n",
        b"---\na: *unknown\n---\n",
        b"---\na: !!python/object/apply:os.system ['false']\n---\n",
        b"---\n" + b"[" * 5000 + b"\n---\n",
        b"---\nlicense: mit\nx: " + b"x" * MAX_FRONT_MATTER + b"\n---\n",
        b"---\nlicense: \xff\xfe\x00\n---\n",
    ],
)
def test_garbage_is_an_empty_card(data: bytes) -> None:
    assert parse_card(data) == ModelCard()


def test_aliases_do_not_blow_up() -> None:
    lines = ["a0: &a0 [x]"] + [
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 40)
    ]
    text = "---\nlicense: mit\n" + "\n".join(lines) + "\ntags: *a39\n---\n"
    assert parse_card(text.encode()) == ModelCard("mit", {})


@given(st.text(max_size=60) | st.text("-:[]{}&*!|>?\n \tab", max_size=60))
def test_any_front_matter_is_read_or_empty(text: str) -> None:
    parse_card(f"---\n{text}\n---\n".encode())


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_empty(data: bytes) -> None:
    parse_card(b"---\n" + data + b"\n---\n")
