"""A catalog repaired with what the outputs in the store say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

import lego_ray
from lego_ray.catalog.tables import Catalog
from lego_ray.errors import CatalogNotFound
from tests.audit.test_check import with_column
from tests.merging.merged_place import STORES, Place, fresh_place


@pytest.fixture(params=STORES)
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return fresh_place(request, tmp_path)


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    place = fresh_place(request, tmp_path)
    place.merge("clustered")
    return place


def test_a_doubled_catalog_is_shown_then_put_right(anywhere: Place) -> None:
    anywhere.merge("clustered")
    catalog = Catalog(anywhere.catalog, fresh_options=opened(anywhere).fresh_options)
    before = {table: catalog.open(table).count() for table in catalog.tables()}
    for table in before:
        write_deltalake(catalog.open(table), catalog.whole(table).to_table(), mode="append")
    problems = lego_ray.check_catalog(anywhere.catalog)["problems"]
    assert {each["table"] for each in problems} == set(before)
    assert all(each["key"] and each["repair"] for each in problems)
    seen = lego_ray.repair_catalog(anywhere.catalog)
    assert json.loads(json.dumps(seen)) == seen
    assert {each["table"]: each["removed"] for each in seen["tables"]} == before
    assert lego_ray.check_catalog(anywhere.catalog)["problems"] == problems
    done = lego_ray.repair_catalog(anywhere.catalog, apply=True)
    assert done == {**seen, "applied": True, "ok": True}
    assert lego_ray.check_catalog(anywhere.catalog, deep=True)["ok"]
    assert {table: catalog.open(table).count() for table in before} == before
    nothing = lego_ray.repair_catalog(anywhere.catalog, apply=True)
    assert (nothing["ok"], nothing["tables"], nothing["repairs"]) == (True, [], [])


def opened(place: Place) -> Catalog:
    from lego_ray.catalog.opening import open_catalog

    return open_catalog(place.catalog)


@pytest.mark.parametrize("gone", ["rows", "table"])
def test_adapters_without_a_row_get_what_the_manifest_says_of_them(place: Place, gone: str) -> None:
    before = opened(place).read("adapters").to_pylist()
    if gone == "table":
        shutil.rmtree(f"{place.catalog}/adapters")
    else:
        handle = DeltaTable(f"{place.catalog}/adapters")
        handle.delete()
        handle.vacuum(0, dry_run=False, enforce_retention_duration=False)
    record = lego_ray.repair_catalog(place.catalog, apply=True)
    assert record["ok"]
    assert record["repairs"][0]["repair"] == "write what the merge's manifest says of them"
    after = opened(place).read("adapters").to_pylist()
    for name in ("adapter_id", "uri", "base_model", "rank_min", "rank_max", "status"):
        assert sorted(row[name] for row in after) == sorted(row[name] for row in before)
    assert lego_ray.check_catalog(place.catalog, deep=True)["ok"]


def test_of_two_rows_of_a_merge_the_one_that_its_output_agrees_with_stays(place: Place) -> None:
    before = opened(place).read("merges").to_pylist()
    handle = DeltaTable(f"{place.catalog}/merges")
    wrong = with_column(handle.to_pyarrow_table(), "content_hash", ["f" * 64])
    write_deltalake(handle, wrong, mode="append")
    record = lego_ray.repair_catalog(place.catalog, apply=True)
    assert [each["repair"] for each in record["repairs"]] == [
        "keep the row that matches its output"
    ]
    assert opened(place).read("merges").to_pylist() == before

    shutil.move(place.uri("clustered"), place.uri("elsewhere"))
    write_deltalake(DeltaTable(f"{place.catalog}/merges"), wrong, mode="append")
    record = lego_ray.repair_catalog(place.catalog, apply=True)
    assert (record["ok"], record["tables"], len(record["left"])) == (False, [], 1)


def test_a_table_of_details_that_is_gone_is_left(place: Place) -> None:
    shutil.rmtree(f"{place.catalog}/msus")
    record = lego_ray.repair_catalog(place.catalog, apply=True)
    [left] = record["left"]
    assert left["table"] == "msus"
    assert left["problem"] == "the table does not exist, but 32 rows were recorded"


def test_a_catalog_that_was_only_scanned_into_is_repaired_too(place: Place, tmp_path: Path) -> None:
    catalog = tmp_path / "scanned"
    lego_ray.scan(place.zoo, catalog=catalog)
    handle = DeltaTable(str(catalog / "adapters"))
    data = handle.to_pyarrow_table()
    write_deltalake(handle, pa.concat_tables([data, data]), mode="append")
    record = lego_ray.repair_catalog(catalog, apply=True)
    assert record["tables"] == [{"table": "adapters", "removed": 4, "added": 0, "changed": 0}]


def test_no_catalog_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(CatalogNotFound):
        lego_ray.repair_catalog(tmp_path / "nothing")
