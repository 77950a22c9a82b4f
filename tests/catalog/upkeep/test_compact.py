"""Compaction changes files, and no row."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lego_ray.catalog.rewriting import active_files
from lego_ray.catalog.tables import Catalog
from lego_ray.catalog.upkeep import compact as compact_module
from lego_ray.catalog.upkeep.compact import Compacted, compact
from lego_ray.errors import CatalogError, CatalogNotFound
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


def test_files_are_gathered_up_to_a_size_in_their_order(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = list(active_files(catalog.open("adapters")).values())
    monkeypatch.setattr(compact_module, "TARGET_BYTES", sum(sizes[:5]))
    before = catalog.read("adapters").sort_by("uri")
    done = compact(catalog, "adapters")
    assert done.files_before == N_APPENDS
    assert 1 < done.files_after < N_APPENDS
    assert catalog.read("adapters").sort_by("uri").equals(before)


def test_a_damaged_file_is_not_written_again_as_if_it_were_whole(catalog: Catalog) -> None:
    path = next(Path(catalog.table_uri("adapters")).glob("*.parquet"))
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)
    with pytest.raises(CatalogError, match="damaged"):
        compact(catalog, "adapters")
    assert len(active_files(catalog.open("adapters"))) == N_APPENDS


def test_compactions_at_once_leave_each_row_once(catalog: Catalog) -> None:
    before = catalog.read("adapters").sort_by("uri")
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: compact(catalog, "adapters"), range(4)))
    assert {each.files_after for each in done} == {1}
    assert catalog.read("adapters").sort_by("uri").equals(before)
