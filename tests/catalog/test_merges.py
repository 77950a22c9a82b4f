"""Recording a merge: all of it or, to readers, none of it; and once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pyarrow as pa
import pytest

from lego_ray.catalog.merges import append_merge, make_current
from lego_ray.catalog.query import sql
from lego_ray.catalog.schema import Column
from lego_ray.catalog.tables import Catalog
from lego_ray.catalog.tenure import Tenure
from lego_ray.catalog.upkeep.compact import compact
from lego_ray.errors import CatalogError
from tests.catalog.sample import details, merge, msu, site

N_RACERS = 4


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(str(tmp_path / "catalog"))


def counts(catalog: Catalog) -> dict[str, int]:
    return {table: catalog.read(table).num_rows for table in ("merges", "merge_sites", "msus")}


def test_a_merge_is_recorded_once(catalog: Catalog) -> None:
    sites, msus = details()
    assert append_merge(catalog, merge(), sites, msus)
    assert not append_merge(catalog, merge(seconds=9.0), sites, msus)
    assert counts(catalog) == {"merges": 1, "merge_sites": 2, "msus": 5}
    assert catalog.read("merges")["seconds"].to_pylist() == [1.5]


@pytest.mark.parametrize("crash_before", ["merge_sites", "merges"])
def test_a_crash_shows_nothing_and_the_next_run_doubles_nothing(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, crash_before: str
) -> None:
    sites, msus = details("n" * 64)
    append_merge(catalog, merge(merge_id="n" * 64, name="other"), sites, msus)
    before = counts(catalog)

    real = Catalog.open_or_create

    def crashing(self: Catalog, table: str) -> object:
        if table == crash_before:
            raise KeyboardInterrupt
        return real(self, table)

    sites, msus = details()
    with monkeypatch.context() as patch:
        patch.setattr(Catalog, "open_or_create", crashing)
        with pytest.raises(KeyboardInterrupt):
            append_merge(catalog, merge(), sites, msus)
    assert catalog.open("msus").count() == 10, "leftovers are there"
    assert counts(catalog) == before
    assert sql(catalog, "SELECT count(*) AS n FROM msus").to_pylist() == [{"n": 5}]

    assert append_merge(catalog, merge(), sites, msus)
    assert counts(catalog) == {table: 2 * n for table, n in before.items()}
    assert catalog.open("msus").count() == 10


def test_racing_records_of_one_merge_are_one(catalog: Catalog) -> None:
    barrier = Barrier(N_RACERS)
    sites, msus = details()

    def race(_: int) -> bool:
        barrier.wait()
        return append_merge(catalog, merge(), sites, msus)

    with ThreadPoolExecutor(N_RACERS) as pool:
        recorded = list(pool.map(race, range(N_RACERS)))
    assert sum(recorded) == 1
    assert counts(catalog) == {"merges": 1, "merge_sites": 2, "msus": 5}


def test_racing_merges_of_one_name_get_versions_of_their_own(catalog: Catalog) -> None:
    barrier = Barrier(N_RACERS)

    def race(i: int) -> None:
        merge_id = f"{i:064d}"
        sites, msus = details(merge_id)
        barrier.wait()
        append_merge(catalog, merge(merge_id=merge_id, version=None), sites, msus)

    with ThreadPoolExecutor(N_RACERS) as pool:
        list(pool.map(race, range(N_RACERS)))
    assert sorted(catalog.read("merges")["version"].to_pylist()) == [1, 2, 3, 4]
    append_merge(catalog, merge(merge_id="z" * 64, name="another", version=None), [], [])
    assert sql(catalog, "SELECT version FROM merges WHERE name = 'another'")[0].to_pylist() == [1]


def test_a_method_without_msus_makes_no_such_table(catalog: Catalog) -> None:
    append_merge(catalog, merge(method="svd"), [site(inertia=None, iterations=None)], [])
    assert catalog.tables() == ("merges", "merge_sites")


@pytest.mark.parametrize(
    ("sites", "msus", "where"),
    [
        ([site(merge_id="x")], [msu()], r"merge_sites\.merge_id"),
        ([site()], [msu(), msu(merge_id="x")], r"msus\.merge_id"),
        ([site(rank=None)], [msu()], r"merge_sites\.rank"),
    ],
)
def test_details_that_do_not_fit_write_nothing(
    catalog: Catalog, sites: list[dict[str, Any]], msus: list[dict[str, Any]], where: str
) -> None:
    with pytest.raises(CatalogError, match=where):
        append_merge(catalog, merge(), sites, msus)
    assert catalog.tables() == ()


def test_a_table_described_in_other_words_is_written_as_any(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The words of a release are in the tables that it made."""
    sites, msus = details()
    with monkeypatch.context() as former:
        former.setattr("lego_ray.catalog.schema.Column.field", property(_in_other_words))
        append_merge(catalog, merge(), sites, msus)
    assert catalog.open("merges").schema().fields[0].metadata["doc"] == "Something."
    turn = Tenure("turn", 1, {})
    turn.claim(catalog, ("merges", "merge_sites"))
    sites, msus = details("n" * 64)
    assert append_merge(catalog, merge(merge_id="n" * 64, name="other"), sites, msus, tenure=turn)
    assert make_current(catalog, merge()["merge_id"], turn) == 1
    assert compact(catalog, "merges").files_after == 1
    assert counts(catalog) == {"merges": 2, "merge_sites": 4, "msus": 10}


def _in_other_words(column: Column) -> pa.Field:
    about = {"doc": "Something.", "comment": "Something."}
    return pa.field(column.name, column.type, column.nullable, about)
