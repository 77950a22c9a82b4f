"""What the docs point at is there."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import PAGES, ROOT, text_of

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_PATH = re.compile(r"`((?:lego_ray|jobs|tests|deploy|docs)/[\w/.-]+)`")


def prose(page: str) -> str:
    return re.sub(r"^```.*?^```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """Those GitHub makes of headings."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in _LINK.findall(prose(page)):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = ((ROOT / page).parent / name).resolve() if name else ROOT / page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text()), link


@pytest.mark.parametrize("page", PAGES)
def test_files_named_are_there(page: str) -> None:
    # `NAME` stands for what a reader adds, and `longest` is what a guide adds.
    for path in _PATH.findall(prose(page)):
        if "NAME" not in path and "longest" not in path and not path.startswith("docs/..."):
            assert (ROOT / path).exists(), path


def test_every_guide_is_linked_from_the_readme() -> None:
    linked = set(_LINK.findall(text_of("README.md")))
    assert {page for page in PAGES if page != "README.md"} <= linked
