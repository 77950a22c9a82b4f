"""Others' words mean nothing in a card, whatever they hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from lego_ray.output.card.markdown import LONGEST, code, plain

HOSTILE = [
    "[a](javascript:alert(1))",
    "![](https://evil.example/track.png)",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "a | b | c",
    "a\\| [x](http://evil.example) |",
    "`` ` ```",
    "``` \n# heading\n---\nlicense: mit\n---",
    "x` [y](http://evil.example) `z",
    "https://evil.example www.evil.example a@evil.example",
    "&lt;b&gt; &#96;",
    "*a* _b_ ~~c~~ **d**",
    "\u202egnp.exe",
    "\udcff\x01\x1b[31m",
    "</code><b>x</b><code>",
    "- x\n\n<details>",
]
HARMLESS = {"text", "code_inline", "softbreak"}


def rendered(markdown: str) -> list[Token]:
    """Every inline token of a text, read as GitHub's flavour, with raw HTML and bare links."""
    found = MarkdownIt("gfm-like", {"html": True, "linkify": False}).parse(markdown)
    return [child for token in found for child in token.children or ()]


def shown(markdown: str) -> str:
    """What a reader sees of it."""
    return "".join(t.content for t in rendered(markdown) if t.type != "html_inline")


def check(text: str, markdown: str) -> None:
    tokens = rendered(f"A {markdown}")
    tags = [t.content for t in tokens if t.type == "html_inline"]
    assert tags in ([], ["<code>", "</code>"])
    assert {t.type for t in tokens if t.type != "html_inline"} <= HARMLESS
    assert shown(f"A {markdown}") == "A " + (plain(text) or "-")


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_in_a_name_is_markup(text: str) -> None:
    check(text, code(text))
    code(text).encode()  # a name of a file that is not text has no code in UTF-8


@given(st.text(max_size=40) | st.text("`|\\<>[]()!*_&#; ab\n", max_size=25))
def test_no_text_is_markup(text: str) -> None:
    check(text, code(text))


@given(st.lists(st.text("`|\\<>[]()! ab\n", max_size=12), min_size=3, max_size=3))
def test_no_text_leaves_its_cell(cells: list[str]) -> None:
    row = "| " + " | ".join(code(cell) for cell in cells) + " |"
    table = MarkdownIt("gfm-like", {"html": True, "linkify": False}).parse(
        f"| a | b | c |\n|---|---|---|\n{row}"
    )
    inner = [t for t in table if t.type == "inline"][3:]
    assert len(inner) == 3
    for token, cell in zip(inner, cells, strict=True):
        found = "".join(c.content for c in token.children or () if c.type != "html_inline")
        assert found == (plain(cell) or "-")


def test_ordinary_names_are_readable_as_they_are() -> None:
    assert code("s3://zoo/alice/qa-7b_v2") == "`s3://zoo/alice/qa-7b_v2`"


def test_endless_names_are_cut() -> None:
    assert len(plain("x" * 10_000)) == LONGEST
