"""Compaction changes files, and no row."""

from __future__ import annotations

from pathlib import Path

import pytest

from lego_ray.catalog.tables import Catalog
from lego_ray.catalog.upkeep.compact import Compacted, compact
from lego_ray.errors import CatalogNotFound
from tests.catalog.sample import adapter

N_APPENDS = 12


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    catalog = Catalog(str(tmp_path / "catalog"))
    for i in range(N_APPENDS):
        catalog.append("adapters", [adapter(uri=f"/zoo/{i}")])
    return catalog


def files(catalog: Catalog) -> int:
    return len(list(Path(catalog.table_uri("adapters")).glob("*.parquet")))


def test_files_become_one_and_rows_stay(catalog: Catalog) -> None:
    before = catalog.read("adapters").sort_by("uri")
    assert compact(catalog, "adapters") == Compacted("adapters", N_APPENDS, 1)
    assert files(catalog) == N_APPENDS + 1, "readers of the former state still need them"
    assert catalog.read("adapters").sort_by("uri").equals(before)
    catalog.append("adapters", [adapter(uri="/zoo/new")])
    assert catalog.read("adapters").num_rows == N_APPENDS + 1


def test_a_compact_table_is_left_alone(catalog: Catalog) -> None:
    compact(catalog, "adapters")
    log = sorted(Path(catalog.table_uri("adapters"), "_delta_log").iterdir())
    assert compact(catalog, "adapters") == Compacted("adapters", 1, 1)
    assert sorted(Path(catalog.table_uri("adapters"), "_delta_log").iterdir()) == log


def test_a_named_append_stays_known(catalog: Catalog) -> None:
    catalog.append("adapters", [adapter(uri="/zoo/named")], idempotency=("load", 1))
    compact(catalog, "adapters")
    catalog.append("adapters", [adapter(uri="/zoo/named")], idempotency=("load", 1))
    assert catalog.read("adapters").num_rows == N_APPENDS + 1


def test_a_table_that_is_not_there_is_not_found(catalog: Catalog) -> None:
    with pytest.raises(CatalogNotFound):
        compact(catalog, "msus")
