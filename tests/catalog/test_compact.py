"""Compaction changes files, and no row."""

from __future__ import annotations

from pathlib import Path

import pytest

from lego_ray.catalog.compact import compact
from lego_ray.catalog.tables import Catalog
from lego_ray.errors import CatalogNotFound, InvalidOption
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
    done = compact(catalog, "adapters")
    assert (done.files_before, done.files_after, done.files_removed) == (N_APPENDS, 1, 0)
    assert files(catalog) == N_APPENDS + 1, "readers of the former state still need them"
    assert catalog.read("adapters").sort_by("uri").equals(before)
    catalog.append("adapters", [adapter(uri="/zoo/new")])
    assert catalog.read("adapters").num_rows == N_APPENDS + 1


def test_files_out_of_use_are_removed_after_the_retention(catalog: Catalog) -> None:
    assert compact(catalog, "adapters", retention_hours=0).files_removed == N_APPENDS
    assert files(catalog) == 1
    assert catalog.read("adapters").num_rows == N_APPENDS


def test_a_named_append_stays_known(catalog: Catalog) -> None:
    catalog.append("adapters", [adapter(uri="/zoo/named")], idempotency=("load", 1))
    compact(catalog, "adapters", retention_hours=0)
    catalog.append("adapters", [adapter(uri="/zoo/named")], idempotency=("load", 1))
    assert catalog.read("adapters").num_rows == N_APPENDS + 1


def test_faults_are_explained(catalog: Catalog) -> None:
    with pytest.raises(CatalogNotFound):
        compact(catalog, "msus")
    with pytest.raises(InvalidOption):
        compact(catalog, "adapters", retention_hours=-1)
