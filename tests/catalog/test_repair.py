"""Rows that are doubled, wrong or lost are found and put right; a right catalog is left alone."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable, write_deltalake

from lego_ray.catalog import merges as merges_module
from lego_ray.catalog.adapters import record_adapters
from lego_ray.catalog.changes import Exchange
from lego_ray.catalog.groups import record_groups
from lego_ray.catalog.merges import append_merge
from lego_ray.catalog.repair.faults import Diagnosis, Fault
from lego_ray.catalog.repair.repairing import diagnose, repair
from lego_ray.catalog.schema import TABLES
from lego_ray.catalog.tables import Catalog
from lego_ray.catalog.trials import record_trials
from tests.catalog.sample import NOW, adapter, details, group, merge, msu, refused, site, trial
from tests.catalog.stores import STORES, copied_catalog

M, N = "m" * 64, "n" * 64
LATER = NOW + timedelta(hours=1)


class Outputs:
    """Outputs of which some rows of merges are right."""

    def __init__(self, **right: Any) -> None:
        self.right = right

    def agrees(self, merge: Mapping[str, Any]) -> bool | None:
        return all(merge[name] == value for name, value in self.right.items()) or None

    def row(self, merge: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def adapters(self, merge: Mapping[str, Any]) -> list[dict[str, Any]]:
        return []


@pytest.fixture(params=STORES)
def anywhere(made: Path, request: pytest.FixtureRequest, tmp_path: Path) -> Catalog:
    return copied_catalog(made, request, tmp_path)


@pytest.fixture
def catalog(made: Path, tmp_path: Path) -> Catalog:
    return Catalog(str(shutil.copytree(made, tmp_path / "catalog")))


def sound_details(merge_id: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of a merge's sites and MSUs, whose numbers, shares and distances agree."""
    sites, msus = details(merge_id)
    sites[0] |= {"n_msus": 2, "inertia": 2 / 64}
    sites[1] |= {"n_msus": 3, "inertia": 3 / 64}
    for row in msus:
        alone = row["site"] == "layers.1.q_proj" or row["cluster"] == 0
        row["weight"] = 1.0 if alone else 0.5
    return sites, msus


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three adapters, one of them refused, two merges, groups of both, and two trials."""
    place = tmp_path_factory.mktemp("made") / "catalog"
    catalog = Catalog(str(place))
    record_adapters(
        catalog, [adapter(), adapter(adapter_id="b" * 64, uri="/zoo/b", tags=None), refused()]
    )
    for merge_id, version in ((M, 1), (N, 2)):
        sites, msus = sound_details(merge_id)
        append_merge(catalog, merge(merge_id=merge_id, version=version), sites, msus)
    record_groups(
        catalog,
        [
            group(merge_id=M),
            group(merge_id=M, adapter_id="b" * 64, uri="/zoo/b"),
            group(adapter_id="c" * 64, uri="/zoo/c", status="alone"),
        ],
    )
    bad = {"value": None, "score": None, "tasks": None}
    failed = trial(trial=1, status="failed", reason="ScoringFailed: it did not score", **bad)
    record_trials(catalog, "s" * 64, [trial(merge_id=M), failed])
    return place


def rows(catalog: Catalog) -> dict[str, list[str]]:
    """All rows of all tables, as text and in order."""
    return {
        table: sorted(map(repr, catalog.whole(table).to_table().to_pylist())) for table in TABLES
    }


def versions(catalog: Catalog) -> dict[str, int]:
    return {table: catalog.open(table).version() for table in TABLES}


def whole(catalog: Catalog, table: str) -> pa.Table:
    return catalog.whole(table).to_table()


def write(catalog: Catalog, table: str, data: pa.Table, mode: Any) -> None:
    """As any other tool writes."""
    write_deltalake(catalog.open(table), data, mode=mode)


def changed(data: pa.Table, **values: Any) -> pa.Table:
    for name, value in values.items():
        column = pa.array([value] * data.num_rows, data.schema.field(name).type)
        data = data.set_column(data.schema.get_field_index(name), data.schema.field(name), column)
    return data


def faults(found: list[Diagnosis]) -> list[Fault]:
    return [fault for each in found for fault in each.faults]


def fixed(catalog: Catalog, before: dict[str, list[str]], outputs: Outputs | None = None) -> None:
    """What a look finds, a repair puts right, to the rows of before; and then there is nothing more."""
    outputs = outputs or Outputs()
    damaged, at = rows(catalog), versions(catalog)
    seen = diagnose(catalog, outputs)
    assert faults(seen), "the damage is found"
    assert all(fault.repair for fault in faults(seen)), faults(seen)
    assert (rows(catalog), versions(catalog)) == (damaged, at), "a look changes nothing"
    done = repair(catalog, outputs)
    assert faults(done) == faults(seen)
    assert rows(catalog) == before
    for each in done:
        commits = int(each.change is not None)
        assert catalog.open(each.table).version() == at[each.table] + commits, each.table
    assert faults(diagnose(catalog, outputs)) == []


def on_stores(tables: Iterable[str]) -> list[Any]:
    """Each table on disk, and one of them on S3: a fault is found in the rows, wherever they are."""
    return [
        *(pytest.param("file", table) for table in tables),
        pytest.param("s3", "merges", marks=pytest.mark.s3),
    ]


def test_a_right_catalog_is_left_alone(anywhere: Catalog) -> None:
    before, at = rows(anywhere), versions(anywhere)
    assert faults(diagnose(anywhere, Outputs())) == []
    assert faults(repair(anywhere, Outputs())) == []
    assert (rows(anywhere), versions(anywhere)) == (before, at)


@pytest.mark.parametrize(("anywhere", "table"), on_stores(TABLES), indirect=["anywhere"])
def test_rows_that_are_there_twice(anywhere: Catalog, table: str) -> None:
    before = rows(anywhere)
    write(anywhere, table, whole(anywhere, table), "append")
    fixed(anywhere, before)


@pytest.mark.parametrize("table", TABLES)
def test_rows_doubled_within_one_file_and_some_of_them_only(catalog: Catalog, table: str) -> None:
    before, data = rows(catalog), whole(catalog, table)
    write(catalog, table, pa.concat_tables([data, data.slice(0, 1), data.slice(0, 1)]), "overwrite")
    fixed(catalog, before)


@pytest.mark.parametrize("table", TABLES)
def test_rows_that_an_optimize_doubled(catalog: Catalog, table: str) -> None:
    """The kind that was met: what a commit took away, another had read before and wrote back."""
    before, data = rows(catalog), whole(catalog, table)
    write(catalog, table, data.slice(0, 0), "append")
    write(catalog, table, data.slice(0, 1), "append")
    catalog.open(table).optimize.compact()
    fixed(catalog, before)


@pytest.mark.parametrize("table", ["merge_sites", "msus", "groups"])
@pytest.mark.parametrize("left", [0, 1])
def test_rows_that_were_lost_come_back_from_history(
    catalog: Catalog, table: str, left: int
) -> None:
    if (table, left) == ("groups", 0):
        return  # a grouping of which nothing is left is not missed
    before = rows(catalog)
    write(catalog, table, whole(catalog, table).slice(0, left), "overwrite")
    fixed(catalog, before)


def test_merges_and_adapters_that_were_lost_come_back_from_history(catalog: Catalog) -> None:
    before = rows(catalog)
    catalog.open("merges").delete(f"merge_id = '{N}'")
    fixed(catalog, before)
    catalog.open("adapters").delete("uri = '/zoo/b'")
    fixed(catalog, before)


def test_after_a_vacuum_what_is_lost_is_named_and_left(catalog: Catalog) -> None:
    for table in ("merges", "adapters", "msus"):
        key = "adapter_id" if table == "adapters" else "merge_id"
        value = "b" * 64 if table == "adapters" else N
        handle = catalog.open(table)
        handle.delete(f"{key} = '{value}'" + (" AND rank_index = 0" if table == "msus" else ""))
        handle.vacuum(0, dry_run=False, enforce_retention_duration=False)
    before, at = rows(catalog), versions(catalog)
    told = [(f.table, f.problem, f.repair) for f in faults(repair(catalog, Outputs()))]
    assert ("merges", "it was recorded, but its row is missing", "") in told
    assert ("adapters", "1 of its adapters have no row, bbbbbbbbbbbb first", "") in told
    assert (rows(catalog), versions(catalog)) == (before, at)


def test_what_is_doubled_goes_though_more_is_lost(catalog: Catalog) -> None:
    before = rows(catalog)
    data = whole(catalog, "msus")
    short = data.filter(
        pc.invert(pc.and_(pc.equal(data["merge_id"], M), pc.equal(data["cluster"], 1)))
    )
    write(catalog, "msus", pa.concat_tables([short, short]), "overwrite")
    catalog.open("msus").vacuum(0, dry_run=False, enforce_retention_duration=False)
    left = [f for f in faults(repair(catalog, Outputs())) if f.merge_id == N]
    assert all(f.repair for f in left)
    assert len(rows(catalog)["msus"]) == short.num_rows < len(before["msus"])


def test_an_adapters_replaced_row_that_came_back_goes_again(anywhere: Catalog) -> None:
    old = whole(anywhere, "adapters")
    record_adapters(anywhere, [adapter(license="apache-2.0", scanned_at=LATER)])
    before = rows(anywhere)
    write(anywhere, "adapters", old.filter(pc.equal(old["uri"], "/zoo/a")), "append")
    fixed(anywhere, before)


def test_rows_that_differ_and_were_scanned_at_one_time_go_by_the_order_of_their_commits(
    catalog: Catalog,
) -> None:
    data = whole(catalog, "adapters")
    mine = data.filter(pc.equal(data["uri"], "/zoo/a"))
    write(catalog, "adapters", changed(mine, license="bsd"), "append")
    repair(catalog, Outputs())
    found = whole(catalog, "adapters")
    assert found.filter(pc.equal(found["uri"], "/zoo/a"))["license"].to_pylist() == ["bsd"]
    write(
        catalog, "adapters", pa.concat_tables([found, changed(mine, license="mit-0")]), "overwrite"
    )
    [fault] = faults(repair(catalog, Outputs()))
    assert (fault.repair, fault.key) == ("", "adapter_id aaaaaaaaaaaa, uri /zoo/a")


def test_a_refusal_that_was_ended_goes(catalog: Catalog) -> None:
    before_refusal = whole(catalog, "adapters")
    record_adapters(catalog, [adapter(adapter_id="d" * 64, uri="/zoo/bad", scanned_at=LATER)])
    before = rows(catalog)
    back = before_refusal.filter(pc.equal(before_refusal["status"], "refused"))
    write(catalog, "adapters", back, "append")
    fixed(catalog, before)
    # One that came later is the state of things.
    record_adapters(catalog, [refused(scanned_at=LATER + timedelta(hours=1))])
    assert faults(diagnose(catalog, Outputs())) == []


def test_the_lower_version_of_a_merge_that_came_back_goes(catalog: Catalog) -> None:
    old = whole(catalog, "merges")
    merges_module.make_current(catalog, M)
    before = rows(catalog)
    write(catalog, "merges", old.filter(pc.equal(old["merge_id"], M)), "append")
    fixed(catalog, before)


def test_of_rows_of_a_merge_that_differ_the_output_decides(catalog: Catalog) -> None:
    before = rows(catalog)
    data = whole(catalog, "merges")
    wrong = changed(data.filter(pc.equal(data["merge_id"], M)), content_hash="f" * 64)
    write(catalog, "merges", wrong, "append")
    at = versions(catalog)
    [fault] = faults(repair(catalog, Outputs(content_hash="0" * 64)))
    assert (fault.repair, versions(catalog)) == ("", at), "neither is right as far as can be known"
    fixed(catalog, before, Outputs(content_hash="c" * 64))


def test_merges_of_one_version_get_versions_of_their_own_in_their_order(catalog: Catalog) -> None:
    append_merge(catalog, merge(merge_id="o" * 64, version=3, n_sites=0, n_msus=0), [], [])
    data = whole(catalog, "merges")
    twice = changed(data.filter(pc.equal(data["merge_id"], N)), version=1, created_at=LATER)
    rest = data.filter(pc.not_equal(data["merge_id"], N))
    write(catalog, "merges", pa.concat_tables([rest, twice]), "overwrite")
    handle = catalog.open("merges")
    handle.vacuum(0, dry_run=False, enforce_retention_duration=False)  # it was recorded later, then
    told = faults(repair(catalog, Outputs()))
    assert [(f.problem, f.repair) for f in told] == [
        ("version 1 of support is another merge too", "make it version 2")
    ]
    found = {r["merge_id"][0]: r["version"] for r in whole(catalog, "merges").to_pylist()}
    assert found == {"m": 1, "n": 2, "o": 3}
    write(catalog, "merges", changed(whole(catalog, "merges"), version=7), "overwrite")
    repair(catalog, Outputs())
    found = {r["merge_id"][0]: r["version"] for r in whole(catalog, "merges").to_pylist()}
    assert found == {"m": 7, "o": 8, "n": 9}
    assert faults(diagnose(catalog, Outputs())) == []


@pytest.mark.parametrize(
    ("table", "values"),
    [
        ("merge_sites", {"inertia": 99.0}),
        ("msus", {"distance": 99.0}),
        ("msus", {"cluster": 77}),
        ("groups", {"similarity": 0.25, "found_at": LATER}),
    ],
)
def test_details_that_others_wrote_beside_the_right_ones_go(
    catalog: Catalog, table: str, values: dict[str, Any]
) -> None:
    before = rows(catalog)
    write(catalog, table, changed(whole(catalog, table).slice(0, 2), **values), "append")
    fixed(catalog, before)


def test_details_that_were_changed_come_back_from_history(catalog: Catalog) -> None:
    before = rows(catalog)
    catalog.open("msus").update(updates={"cluster": "55"}, predicate=f"merge_id = '{N}'")
    fixed(catalog, before)


def test_an_adapter_at_two_places_is_in_a_merge_twice(catalog: Catalog) -> None:
    """Its MSUs are there twice, alike in every column, and rightly so."""
    twin = msu(merge_id="t" * 64, cluster=0, weight=1 / 3)
    other = {**twin, "rank_index": 1}
    append_merge(
        catalog,
        merge(merge_id="t" * 64, name="twins", adapter_ids=["a" * 64] * 2, n_sites=1, n_msus=4),
        [site(merge_id="t" * 64, n_msus=4, inertia=4 / 64)],
        [twin, twin, other, {**other, "cluster": 1, "weight": 1.0}],
    )
    assert faults(diagnose(catalog, Outputs())) == []
    before = rows(catalog)
    write(catalog, "msus", whole(catalog, "msus"), "append")
    fixed(catalog, before)


def test_an_msu_may_be_in_several_ranks_of_a_method_that_mixes(catalog: Catalog) -> None:
    """Its rows are of different merged ranks; the same one twice is once too often."""
    share = msu(merge_id="x" * 64, distance=None, weight=0.75)
    shares = [share, {**share, "cluster": 1}, {**share, "cluster": -1, "rank_index": -1}]
    shares[-1]["weight"] = 0.5
    append_merge(
        catalog,
        merge(merge_id="x" * 64, name="mixed", method="svd", n_sites=1, n_msus=3),
        [site(merge_id="x" * 64, n_msus=40, inertia=None)],
        shares,
    )
    assert faults(diagnose(catalog, Outputs())) == []
    before = rows(catalog)
    write(catalog, "msus", whole(catalog, "msus").slice(0, 4), "append")
    fixed(catalog, before)
    write(catalog, "msus", changed(pa.Table.from_pylist(shares[:1]), cluster=9), "append")
    found = {fault.problem.split(" ", 1)[1] for fault in faults(diagnose(catalog, Outputs()))}
    assert found == {"has 4 rows, 3 were recorded", "has a cluster 9, but its rank is 2"}
    fixed(catalog, before)


def test_groups_of_merges_that_are_not_there_are_named(catalog: Catalog) -> None:
    record_groups(catalog, [group(grouping_id="h" * 64, merge_id="x" * 64)])
    [fault] = faults(diagnose(catalog, Outputs()))
    assert (fault.table, fault.repair) == ("groups", "")
    assert "a merge that has no row" in fault.problem


def test_details_of_merges_that_publish_now_are_not_touched(catalog: Catalog) -> None:
    sites, msus = details("u" * 64)
    for table, found in (("msus", msus), ("merge_sites", sites)):
        catalog.append(table, found, ("u" * 64, 1))
        catalog.append(table, found[:1])
    before, at = rows(catalog), versions(catalog)
    done = repair(catalog, Outputs())
    assert faults(done) == []
    assert {u for each in done for u in each.unpublished} == {"u" * 64}
    assert (rows(catalog), versions(catalog)) == (before, at)


def test_columns_that_a_user_added_are_kept(catalog: Catalog) -> None:
    from deltalake.schema import Field, PrimitiveType

    for table in TABLES:
        catalog.open(table).alter.add_columns([Field("owner", PrimitiveType("string"))])
        data = DeltaTable(catalog.table_uri(table)).to_pyarrow_table()
        owned = changed(data, owner="team a")
        write(catalog, table, pa.concat_tables([owned, owned]), "overwrite")
    repair(catalog, Outputs())
    assert faults(diagnose(catalog, Outputs())) == []
    for table in TABLES:
        data = DeltaTable(catalog.table_uri(table)).to_pyarrow_table()
        assert set(data["owner"].to_pylist()) == {"team a"}, table


@pytest.mark.parametrize(("anywhere", "table"), on_stores(TABLES), indirect=["anywhere"])
def test_two_repairs_at_once_make_one(anywhere: Catalog, table: str) -> None:
    before = rows(anywhere)
    write(anywhere, table, whole(anywhere, table), "append")
    at = versions(anywhere)[table]
    barrier = threading.Barrier(2)

    def fix(_: int) -> None:
        barrier.wait()
        repair(anywhere, Outputs())

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(fix, range(2)))
    assert rows(anywhere) == before
    assert versions(anywhere)[table] == at + 1


def beside(table: str, catalog: Catalog) -> Callable[[], None]:
    """What another does between a repair's look at a table and its commit."""
    if table == "adapters":
        more = adapter(adapter_id="e" * 64, uri="/zoo/e")
        return lambda: [record_adapters(catalog, [more])].clear()
    sites, msus = sound_details("p" * 64)
    row = merge(merge_id="p" * 64, version=None)
    return lambda: [append_merge(catalog, row, sites, msus)].clear()


@pytest.mark.parametrize(
    ("anywhere", "table"),
    on_stores(["merges", "adapters", "merge_sites", "msus"]),
    indirect=["anywhere"],
)
def test_a_merge_beside_a_repair_loses_nothing(
    anywhere: Catalog, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    alone, before = beside(table, anywhere), rows(anywhere)
    write(anywhere, table, whole(anywhere, table), "append")
    real, times = Exchange.apply, list[str]()

    def late(self: Exchange, handle: DeltaTable) -> None:
        if not times:
            alone()
        times.append(table)
        real(self, handle)

    with monkeypatch.context() as patch:
        patch.setattr(Exchange, "apply", late)
        repair(anywhere, Outputs())
    # The first lost, and was computed again. A scan leaves no doubled adapters for the second.
    assert len(times) == (1 if table == "adapters" else 2)
    after = rows(anywhere)
    assert set(before[table]) < set(after[table])
    assert all(len(set(found)) == len(found) for found in after.values())
    assert faults(diagnose(anywhere, Outputs())) == []
