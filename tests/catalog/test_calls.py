"""The calls of `lego_ray.catalog`, by URI; what they answer is tested where they are made."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import lego_ray
from lego_ray.catalog.adapters import record_adapters
from lego_ray.catalog.merges import append_merge
from lego_ray.catalog.tables import Catalog
from lego_ray.errors import CatalogNotFound, InvalidOption
from tests.catalog.sample import adapter, details, merge


@pytest.fixture
def uri(tmp_path: Path) -> Path:
    catalog = Catalog(str(tmp_path / "catalog"))
    record_adapters(catalog, [adapter()])
    append_merge(catalog, merge(), *details())
    return tmp_path / "catalog"


def test_every_call_answers_and_does_so_again(uri: Path) -> None:
    calls = lego_ray.catalog
    for _ in range(2):  # A module of a call's name would take its place after the first.
        assert calls.sql(uri, "SELECT 1 AS x").num_rows == 1
        assert calls.list_merges(uri).num_rows == 1
        assert calls.log(uri).num_rows == 2
        assert calls.diff(uri, since="1d").num_rows == 2
        assert calls.show(uri, "support", version=1).summary()["sites"] == 2
        assert calls.lineage(uri, "support").num_rows == 2
        assert calls.lineage(uri, "support", site="layers.0.q_proj", rank=1).num_rows == 2
        assert calls.merges_with(uri, "/zoo/a").num_rows == 1
        assert {done.added for done in calls.migrate(uri)} == {()}
        assert {done.table for done in calls.compact(uri)} == set(Catalog(str(uri)).tables())
        assert {done.files for done in calls.vacuum(uri, dry_run=True)} == {0}


def test_a_moment_is_text_or_a_datetime(uri: Path) -> None:
    now = datetime.now(UTC)
    for at in (now, now.isoformat()):
        assert lego_ray.catalog.list_merges(uri, at=at).num_rows == 1
    for before in (now - timedelta(days=1), "yesterday", "1d"):
        assert lego_ray.catalog.list_merges(uri, at=before).num_rows == 0
    with pytest.raises(InvalidOption):
        lego_ray.catalog.list_merges(uri, at=now + timedelta(days=1))


def test_upkeep_of_an_empty_place_is_refused_and_leaves_no_trace(tmp_path: Path) -> None:
    calls = lego_ray.catalog
    for call in (calls.migrate, calls.compact, calls.vacuum):
        with pytest.raises(CatalogNotFound):
            call(tmp_path / "nothing")
    assert list(tmp_path.iterdir()) == []


def test_a_bad_retention_is_refused_before_anything_is_opened(tmp_path: Path) -> None:
    for retention in ("a week", "1h", timedelta(hours=1)):
        with pytest.raises(InvalidOption, match="--retention"):
            lego_ray.catalog.vacuum(tmp_path / "nothing", retention=retention)
