"""A catalog of schema version 1 is read as it is, written once it was brought up, and loses nothing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from deltalake import DeltaTable

from lego_ray.catalog.adapters import record_adapters
from lego_ray.catalog.ancestry import lineage
from lego_ray.catalog.changes import Properties
from lego_ray.catalog.groups import record_groups
from lego_ray.catalog.history import list_merges, show
from lego_ray.catalog.merges import append_merge
from lego_ray.catalog.query import sql
from lego_ray.catalog.schema import SCHEMA_VERSION, TABLES
from lego_ray.catalog.tables import Catalog
from lego_ray.catalog.upkeep.migrate import migrate
from lego_ray.catalog.versions import VERSION_KEY
from lego_ray.errors import CatalogNotFound, CatalogVersionMismatch
from tests.catalog.sample import adapter, details, group, merge, msu, refused
from tests.catalog.version_one import COLUMNS, write_table

NEW = {
    "licenses": None,
    "license_conflicts": None,
    "output_adapter_id": None,
    "n_sites": None,
    "n_msus": None,
    "stages": None,
    "drift": None,
}
FIRST, SECOND, THIRD = "m" * 64, "n" * 64, "p" * 64


def without_new(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in NEW}


@pytest.fixture
def old(tmp_path: Path) -> Catalog:
    """Two merges and two adapters, recorded by version 1."""
    root = tmp_path / "catalog"
    write_table(root, "adapters", [adapter(), refused()], [("lego_ray.adapters", 1)])
    for number, merge_id in enumerate((FIRST, SECOND), 1):
        sites, msus = details(merge_id)
        write_table(root, "msus", msus, [(merge_id, 1)])
        write_table(root, "merge_sites", sites, [(merge_id, 1)])
        row = without_new(merge(merge_id=merge_id, version=number))
        write_table(root, "merges", [row], [(merge_id, 1), ("name:support", number)])
    return Catalog(str(root))


def rows_of(catalog: Catalog) -> dict[str, list[str]]:
    """Every row of every table as text, in one order, columns since version 2 left out."""
    names = {table: [name for name, _, _ in columns] for table, columns in COLUMNS.items()}
    return {
        table: sorted(map(str, catalog.read(table, names[table]).to_pylist())) for table in names
    }


def test_it_is_read_as_it_is_with_nulls_in_the_new_columns(old: Catalog) -> None:
    found = old.read("merges").sort_by("version").to_pylist()
    assert [{**row, "versions": dict(row["versions"])} for row in found] == [
        {**without_new(merge(merge_id=merge_id, version=number)), **NEW}
        for number, merge_id in enumerate((FIRST, SECOND), 1)
    ]
    query = "SELECT merge_id, licenses FROM merges ORDER BY version"
    assert sql(old, query).to_pylist() == [
        {"merge_id": FIRST, "licenses": None},
        {"merge_id": SECOND, "licenses": None},
    ]
    assert list_merges(old).num_rows == 2
    assert show(old, "support").merge["merge_id"] == SECOND
    assert lineage(old, "support")["msus"].to_pylist() == [4, 1]


def test_it_is_not_written_and_the_way_out_is_said(old: Catalog) -> None:
    before = {table: DeltaTable(old.table_uri(table)).version() for table in COLUMNS}
    for write in (
        old.check_writable,
        lambda: record_adapters(old, [adapter(uri="/zoo/new")]),
        lambda: append_merge(old, merge(merge_id=THIRD, version=None), *details(THIRD)),
    ):
        with pytest.raises(CatalogVersionMismatch) as caught:
            write()
        assert caught.value.exit_code == 2
        assert f"lego-ray catalog migrate --catalog {old.uri}`" in caught.value.hint
    assert {table: DeltaTable(old.table_uri(table)).version() for table in COLUMNS} == before


def test_migrating_loses_nothing_and_lets_it_be_written(old: Catalog) -> None:
    before = rows_of(old)
    done = migrate(old)
    assert {d.table: (d.version_before, d.added) for d in done} == {
        "adapters": (1, ("mark", "content_sha256")),
        "merges": (1, tuple(NEW)),
        "merge_sites": (1, ()),
        "msus": (1, ()),
    }
    assert rows_of(old) == before
    old.check_writable()
    # What version 1 recorded is known, so it is not recorded twice.
    assert not append_merge(old, merge(merge_id=SECOND, version=None), *details(SECOND))
    assert record_adapters(old, [adapter(), refused()]) == 0
    assert append_merge(old, merge(merge_id=THIRD, version=None), *details(THIRD))
    row = show(old, "support").merge
    assert (row["merge_id"], row["version"], row["licenses"]) == (THIRD, 3, ["mit", "unknown"])
    assert old.read("merges").num_rows == 3


def test_a_migrated_table_is_like_one_made_anew(old: Catalog, tmp_path: Path) -> None:
    migrate(old)
    fresh = Catalog(str(tmp_path / "fresh"))
    for table in COLUMNS:
        ours, theirs = old.open(table), fresh.open_or_create(table)
        described = [
            [(field.name, str(field.type), field.nullable) for field in handle.schema().fields]
            for handle in (ours, theirs)
        ]
        assert described[0] == described[1]
        assert ours.metadata().configuration[VERSION_KEY] == str(SCHEMA_VERSION)
    for field in old.open("merges").schema().fields[-len(NEW) :]:
        assert (
            field.metadata["comment"]
            == TABLES["merges"].schema.field(field.name).metadata[b"comment"].decode()
        )


def test_other_tools_read_a_migrated_table(old: Catalog) -> None:
    import polars

    migrate(old)
    append_merge(old, merge(merge_id=THIRD, version=None), *details(THIRD))
    frame = polars.read_delta(old.table_uri("merges")).sort("version")
    assert frame["n_msus"].to_list() == [None, None, 5]
    assert DeltaTable(old.table_uri("merges")).to_pyarrow_dataset().count_rows() == 3


def test_a_catalog_before_shares_were_recorded_is_read_and_brought_up(tmp_path: Path) -> None:
    """Version 4: its rows of `msus` mean the same, and there are none of methods that mix MSUs."""
    catalog = Catalog(str(tmp_path))
    sites, msus = details(FIRST)
    append_merge(catalog, merge(merge_id=FIRST, version=None), sites, msus)
    mixed = merge(merge_id=SECOND, name="mixed", method="svd", version=None, n_msus=0)
    append_merge(catalog, mixed, details(SECOND)[0], [])
    for table in catalog.required_tables():
        properties = {VERSION_KEY: "4"}
        catalog.open(table).alter.set_table_properties(properties, raise_if_not_exists=False)
    before = lineage(catalog, "support").to_pylist()
    assert [row["weight"] for row in before] == [2.0, 0.5]
    with pytest.raises(CatalogVersionMismatch, match="its schema version is 4"):
        append_merge(catalog, merge(merge_id=THIRD, version=None), *details(THIRD))
    assert {(m.version_before, m.added) for m in migrate(catalog)} == {(4, ())}
    assert lineage(catalog, "support").to_pylist() == before
    share = msu(merge_id=THIRD, distance=None, weight=1.0)
    added = merge(merge_id=THIRD, name="mixed", method="svd", version=None, n_msus=1)
    assert append_merge(catalog, added, [], [share])
    assert lineage(catalog, "mixed")["weight"].to_pylist() == [1.0, 0.0]
    assert lineage(catalog, "mixed", 1)["weight"].to_pylist() == [0.0, 0.0]


def test_again_it_commits_nothing(old: Catalog) -> None:
    migrate(old)
    before = {table: old.open(table).version() for table in COLUMNS}
    again = migrate(old)
    assert {(d.version_before, d.added) for d in again} == {(SCHEMA_VERSION, ())}
    assert {table: old.open(table).version() for table in COLUMNS} == before


def test_cut_short_between_its_steps_it_is_made_good(
    old: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = rows_of(old)

    def crash(self: Properties, handle: DeltaTable) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Properties, "apply", crash)
        with pytest.raises(KeyboardInterrupt):
            migrate(old)
    with pytest.raises(CatalogVersionMismatch):
        old.check_writable()
    assert rows_of(old) == before
    migrate(old)
    old.check_writable()
    assert rows_of(old) == before


def test_a_table_that_came_later_is_made_once_it_is_needed(old: Catalog) -> None:
    with pytest.raises(CatalogVersionMismatch, match="catalog migrate"):
        old.check_writable()
    assert sql(old, "SELECT * FROM groups").column_names == TABLES["groups"].schema.names
    migrate(old)
    assert set(old.tables()) == set(COLUMNS)
    record_groups(old, [group()])
    assert show(old, "support").groups.num_rows == 0
    assert old.read("groups").to_pylist() == [group()]


def test_a_catalog_of_version_two_is_brought_up(tmp_path: Path) -> None:
    catalog = Catalog(str(tmp_path))
    append_merge(catalog, merge(), *details())
    for table in catalog.tables():
        catalog.open(table).alter.set_table_properties({VERSION_KEY: "2"}, False)
    with pytest.raises(CatalogVersionMismatch):
        catalog.check_writable()
    assert {(d.version_before, d.added) for d in migrate(catalog)} == {(2, ())}
    catalog.check_writable()
    assert catalog.read("merges").num_rows == 1


def test_racing_migrations_all_succeed(old: Catalog) -> None:
    before = rows_of(old)
    barrier = Barrier(4)

    def race(_: int) -> None:
        barrier.wait()
        migrate(old)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(race, range(4)))
    assert rows_of(old) == before
    old.check_writable()


def test_a_later_release_is_left_alone(old: Catalog) -> None:
    handle = old.open("merges")
    handle.alter.set_table_properties(
        {VERSION_KEY: str(SCHEMA_VERSION + 1)}, raise_if_not_exists=False
    )
    with pytest.raises(CatalogVersionMismatch, match="Upgrade lego-ray"):
        migrate(old)


def test_an_empty_place_is_no_catalog(tmp_path: Path) -> None:
    with pytest.raises(CatalogNotFound):
        migrate(Catalog(str(tmp_path)))
