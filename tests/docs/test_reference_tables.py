"""The tables of options, methods and layouts are made from where these are declared."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.fixtures.reference_tables import PAGES, written
from lego_ray.formats.layouts import DESCRIPTIONS, LAYOUTS
from lego_ray.formats.output_layouts import OUTPUTS
from lego_ray.formats.refusals import REFUSED_FIELDS, REFUSED_TENSORS, REFUSED_TYPES
from tests.docs.pages import ROOT


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_each_page_has_the_tables_that_are_made(page: Path) -> None:
    text = (ROOT / page).read_text()
    assert written(text, PAGES[page]) == text, (
        "python -m jobs.fixtures.reference_tables writes them"
    )


def test_a_page_without_a_place_for_a_table_is_told() -> None:
    with pytest.raises(ValueError, match="0 places for the table of options"):
        written("nothing", PAGES[Path("docs/command-line.md")])


def test_every_layout_and_every_refusal_is_in_the_tables() -> None:
    tables = PAGES[Path("docs/layouts.md")]
    assert {layout.name for layout in LAYOUTS} <= DESCRIPTIONS.keys()
    read, made, _, refused = ("\n".join(tables[name]()) for name in tables)
    for layout in LAYOUTS:
        assert f"| `{layout.name}` |" in read
        assert layout.written_as in ("", *OUTPUTS)
    for name in OUTPUTS:
        assert f"| `{name}` |" in made
    for registry in (REFUSED_FIELDS, REFUSED_TENSORS, REFUSED_TYPES):
        for refusal in registry.values():
            assert refusal.why in refused
            assert refusal.hint in refused
