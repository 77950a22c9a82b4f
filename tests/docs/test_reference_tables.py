"""The tables of options and methods are made from where these are declared."""

from __future__ import annotations

import pytest

from jobs.fixtures.reference_tables import PAGE, written
from tests.docs.pages import ROOT


def test_the_page_has_the_tables_that_are_made() -> None:
    page = (ROOT / PAGE).read_text()
    assert written(page) == page, "python -m jobs.fixtures.reference_tables writes them"


def test_a_page_without_a_place_for_a_table_is_told() -> None:
    with pytest.raises(ValueError, match="0 places for the table of options"):
        written("nothing")
