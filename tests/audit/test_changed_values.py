"""A value that another program changed in a catalog is found, and put right where that can be known."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from deltalake import DeltaTable

import lego_ray
from lego_ray.catalog.merges import make_current
from lego_ray.catalog.opening import open_catalog
from lego_ray.catalog.repair.repairing import diagnose, repair
from lego_ray.catalog.tables import Catalog
from tests.catalog.sample import NOW, group, trial
from tests.catalog.test_repair import Outputs
from tests.merging.merged_place import Place
from tests.zoo import write_zoo


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("made")
    place = Place(str(root / "out"), str(root / "catalog"), write_zoo(root / "zoo", 2))
    place.merge("clustered")
    place.merge("second", rank=2)
    lego_ray.merge(
        place.zoo,
        rank=4,
        output=place.uri("mixed"),
        catalog=place.catalog,
        method="svd",
        runner="inline",
    )
    return place


@pytest.fixture
def place(made: Place, tmp_path: Path) -> Place:
    """The outputs of `made`, and a copy of its catalog."""
    return Place(made.root, str(shutil.copytree(made.catalog, tmp_path / "catalog")), made.zoo)


def change(place: Place, column: str, value: str, where: str, *, vacuum: bool = False) -> None:
    table, _, name = column.partition(".")
    handle = DeltaTable(f"{place.catalog}/{table}")
    assert handle.update(updates={name: value}, predicate=where)["num_updated_rows"]
    if vacuum:
        handle.vacuum(0, dry_run=False, enforce_retention_duration=False)


def rows(place: Place) -> dict[str, list[str]]:
    opened = open_catalog(place.catalog)
    return {table: sorted(map(repr, opened.read(table).to_pylist())) for table in opened.tables()}


CHANGES = [
    ("msus.weight", "weight * 2", "rank_index = 1"),
    ("msus.cluster", "0", "cluster = 1"),
    ("msus.distance", "coalesce(distance, 0.5) * 1.5", "rank_index = 1"),
    ("msus.rank_index", "7", "rank_index = 1"),
    ("merge_sites.relative_error", "0.0", "rank > 0"),
    ("merge_sites.inertia", "inertia * 2", "inertia IS NOT NULL"),
    ("merge_sites.d_in", "d_in + 1", "rank > 0"),
    ("merges.rank", "99", "name = 'second'"),
    ("merges.seconds", "seconds * 2", "name = 'clustered'"),
    ("merges.output_uri", "'/elsewhere'", "name = 'clustered'"),
    ("merges.version", "version + 1", "name = 'clustered'"),
    ("merges.version", "0", "name = 'second'"),
    ("adapters.rank_max", "77", "status = 'ok'"),
    ("adapters.uri", "concat('/elsewhere', uri)", "uri LIKE '%a0'"),
    ("adapters.status", "'refused'", "uri LIKE '%a0'"),
    ("adapters.status", "'gone'", "status = 'ok'"),
]


@pytest.mark.parametrize(("column", "value", "where"), CHANGES)
def test_a_changed_value_is_found_and_taken_from_the_history(
    place: Place, column: str, value: str, where: str
) -> None:
    before = rows(place)
    change(place, column, value, where)
    found = lego_ray.check_catalog(place.catalog, deep=True)["problems"]
    table, _, name = column.partition(".")
    mine = [each["problem"] for each in found if each["table"] == table]
    # A column that rows are known by is not named.
    assert any(name in each or "first recorded" in each for each in mine), found
    dry = lego_ray.repair_catalog(place.catalog)
    assert dry["repairs"]
    assert not dry["applied"]
    done = lego_ray.repair_catalog(place.catalog, apply=True)
    assert done["repairs"] == dry["repairs"]
    assert rows(place) == before
    assert lego_ray.check_catalog(place.catalog, deep=True)["problems"] == []


@pytest.mark.parametrize(
    ("column", "value", "where", "says"),
    [
        ("msus.weight", "weight * 2", "cluster = 1", "not 1 over the MSUs"),
        ("msus.weight", "weight + 0.25", "distance IS NULL", "shares that add up to"),
        ("msus.distance", "distance * 1.5", "distance IS NOT NULL", "whose squares add up to"),
        ("merge_sites.inertia", "inertia * 2", "inertia IS NOT NULL", "whose squares add up to"),
    ],
)
def test_values_that_do_not_agree_are_found_without_a_history_and_left(
    place: Place, column: str, value: str, where: str, says: str
) -> None:
    change(place, column, value, where, vacuum=True)
    found = lego_ray.check_catalog(place.catalog, deep=True)["problems"]
    assert any(says in each["problem"] for each in found), found
    changed = rows(place)
    record = lego_ray.repair_catalog(place.catalog, apply=True)
    assert not record["ok"]
    assert any(says in each["problem"] for each in record["left"])
    assert rows(place) == changed


@pytest.mark.parametrize(
    ("column", "value"),
    [("merges.rank", "99"), ("merges.method", "'svd'"), ("merges.recipe", "'{}'")],
)
def test_what_the_manifest_says_too_needs_no_history(place: Place, column: str, value: str) -> None:
    before = rows(place)
    change(place, column, value, "name = 'clustered'", vacuum=True)
    [found] = lego_ray.check_catalog(place.catalog)["problems"]
    assert column.partition(".")[2] in found["problem"]
    assert found["repair"] == "write what the manifest of its output says"
    assert lego_ray.repair_catalog(place.catalog, apply=True)["ok"]
    assert rows(place) == before


def test_tags_are_for_people_to_change(place: Place) -> None:
    handle = DeltaTable(f"{place.catalog}/adapters")
    handle.update(updates={"tags": "MAP(['task'], ['qa'])"}, predicate="status = 'ok'")
    assert lego_ray.check_catalog(place.catalog, deep=True)["ok"]


@pytest.mark.parametrize(
    ("column", "value", "where", "says"),
    [
        ("merges.version", "version + 1", "name = 'clustered'", "was never given"),
        ("merges.version", "0", "name = 'clustered'", "was never given"),
        ("adapters.uri", "concat('/elsewhere', uri)", "status = 'ok'", "which no row of it says"),
        ("adapters.status", "'refused'", "status = 'ok'", "no reason to refuse it"),
        ("adapters.status", "'gone'", "status = 'ok'", "expected one of ok, refused"),
        ("adapters.reason", "'bad'", "status = 'ok'", "a reason to refuse it"),
    ],
)
def test_versions_places_and_statuses_are_found_without_a_history(
    place: Place, column: str, value: str, where: str, says: str
) -> None:
    change(place, column, value, where, vacuum=True)
    found = lego_ray.check_catalog(place.catalog, deep=True)["problems"]
    assert any(says in each["problem"] for each in found), found


def test_an_adapter_of_a_merge_whose_row_is_not_ok_comes_back(place: Place) -> None:
    change(place, "adapters.status", "'refused'", "status = 'ok'", vacuum=True)
    found = lego_ray.check_catalog(place.catalog, deep=True)["problems"]
    assert any("no row that is ok" in each["problem"] for each in found), found
    lego_ray.repair_catalog(place.catalog, apply=True)
    read = open_catalog(place.catalog).read("adapters").to_pylist()
    assert {row["adapter_id"] for row in read if row["status"] == "ok"} == {
        row["adapter_id"] for row in read
    }


def test_a_merge_that_gets_another_version_is_sound(place: Place) -> None:
    opened = open_catalog(place.catalog)
    [merge_id] = [
        row["merge_id"] for row in opened.read("merges").to_pylist() if row["name"] == "clustered"
    ]
    lego_ray.update(place.uri("clustered"), refit=True, catalog=place.catalog, runner="inline")
    assert make_current(opened, merge_id) > 1
    assert lego_ray.check_catalog(place.catalog, deep=True)["ok"]


def test_what_a_second_change_hides_is_taken_from_before_the_first(place: Place) -> None:
    before = rows(place)
    change(place, "msus.weight", "weight * 2", "rank_index = 1")
    change(place, "msus.distance", "0.5", "rank_index = 0")
    lego_ray.catalog.compact(place.catalog)
    assert lego_ray.repair_catalog(place.catalog, apply=True)["ok"]
    assert rows(place) == before


def test_groups_and_trials_too(tmp_path: Path) -> None:
    catalog = Catalog(str(tmp_path))
    catalog.append("groups", [group(group_name=None), group(adapter_id="b" * 64, group_name=None)])
    catalog.append("trials", [trial(), trial(trial=1, recorded_at=NOW)])
    before = {
        table: sorted(map(repr, catalog.read(table).to_pylist())) for table in catalog.tables()
    }
    for table, name in (("groups", "similarity"), ("trials", "score")):
        handle = DeltaTable(f"{tmp_path}/{table}")
        handle.update(updates={name: "0.25"}, predicate="true")
        [found] = [each for each in diagnose(catalog, Outputs()) if each.table == table]
        assert len(found.faults) == found.changed == 2
        assert f"{name} is 0.25, it was" in found.faults[0].problem
    repair(catalog, Outputs())
    assert not any(each.faults for each in diagnose(catalog, Outputs()))
    after = {
        table: sorted(map(repr, catalog.read(table).to_pylist())) for table in catalog.tables()
    }
    assert after == before
