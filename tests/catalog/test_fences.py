"""Two changes of one catalog at once, in every order: each row is there once, as both left it.

The second change is computed first, then the whole of the first happens, then the second commits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from lego_ray.catalog import damage, rewriting, tables
from lego_ray.catalog.adapters import record_adapters
from lego_ray.catalog.changes import Properties
from lego_ray.catalog.commit import commit
from lego_ray.catalog.damage import damaged_files
from lego_ray.catalog.dataset import table_dataset
from lego_ray.catalog.failures import is_gone
from lego_ray.catalog.merges import append_merge, make_current
from lego_ray.catalog.query import answer
from lego_ray.catalog.reading import native_filesystem
from lego_ray.catalog.tables import Catalog
from lego_ray.catalog.upkeep import compact as compacting
from lego_ray.catalog.upkeep.compact import Compacted, compact
from lego_ray.catalog.upkeep.leftovers import Leftover, remove_leftovers
from lego_ray.catalog.upkeep.vacuum import vacuum
from lego_ray.errors import CatalogError
from lego_ray.storage import open_store
from tests.catalog.sample import adapter, details, merge
from tests.catalog.stores import STORES, copied_catalog

TABLES = ("adapters", "merges", "merge_sites", "msus")
OLD, NEW, LATER, DEAD = "1" * 64, "2" * 64, "3" * 64, "d" * 64
N_ADAPTERS = 3
# Commits go through one of these, whatever the change.
COMMITS = "create_write_transaction"

Step = Callable[[Catalog], Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three adapters, two merges of one name, and details of a third, in a file each."""
    place = tmp_path_factory.mktemp("made") / "catalog"
    catalog = Catalog(str(place))
    for number in range(N_ADAPTERS):
        record_adapters(catalog, [adapter(uri=f"/zoo/{number}")])
    for merge_id in (OLD, NEW):
        append_merge(catalog, merge(merge_id=merge_id, version=None), *details(merge_id))
    for table, rows in zip(("merge_sites", "msus"), details(DEAD), strict=True):
        catalog.append(table, rows, idempotency=(DEAD, 1))
    return place


@pytest.fixture(params=STORES)
def catalog(made: Path, request: pytest.FixtureRequest, tmp_path: Path) -> Catalog:
    return copied_catalog(made, request, tmp_path)


def append(catalog: Catalog) -> None:
    record_adapters(catalog, [adapter(uri="/zoo/new")])


def overwrite(catalog: Catalog) -> None:
    record_adapters(catalog, [adapter(uri=f"/zoo/{n}", license="gpl") for n in range(N_ADAPTERS)])


def record(catalog: Catalog) -> None:
    append_merge(catalog, merge(merge_id=LATER, version=None), *details(LATER))


def renumber(catalog: Catalog) -> None:
    make_current(catalog, OLD)


def remove(catalog: Catalog) -> None:
    found = [Leftover("merge_sites", DEAD, 2, 1), Leftover("msus", DEAD, 5, 1)]
    remove_leftovers(catalog, found)


def compact_all(catalog: Catalog) -> None:
    for table in TABLES:
        compact(catalog, table)


def vacuum_all(catalog: Catalog) -> None:
    for table in TABLES:
        vacuum(catalog, table, timedelta(0), force=True)


def set_properties(catalog: Catalog) -> None:
    """What a migration commits last."""
    for table in TABLES:
        commit(
            lambda table=table: catalog.open_or_create(table),  # type: ignore[misc]
            lambda handle, again: None if again else Properties({"lego_ray.test": "1"}),
            catalog.table_uri(table),
        )


STEPS: dict[str, Step] = {
    "append": append,
    "overwrite": overwrite,
    "record": record,
    "renumber": renumber,
    "remove": remove,
    "compact": compact_all,
    "vacuum": vacuum_all,
    "properties": set_properties,
}


def read(catalog: Catalog) -> dict[str, list[dict[str, Any]]]:
    """Every row of every active file, by plain Parquet."""
    found: dict[str, list[dict[str, Any]]] = {}
    for table in TABLES:
        files = catalog.filesystem(table)
        assert files is not None
        found[table] = []
        for name in pa.table(catalog.open(table).get_add_actions())["path"].to_pylist():
            with files.open_input_file(name) as opened:
                found[table] += pq.read_table(opened, page_checksum_verification=True).to_pylist()
    return found


def check(catalog: Catalog, steps: set[str]) -> None:
    """Holds the catalog against what it must have after these steps."""
    rows = read(catalog)
    new = {"/zoo/new": "mit"} if "append" in steps else {}
    license = "gpl" if "overwrite" in steps else "mit"
    expected = {f"/zoo/{number}": license for number in range(N_ADAPTERS)} | new
    assert sorted((row["uri"], row["license"]) for row in rows["adapters"]) == sorted(
        expected.items()
    )
    ids = [OLD, NEW, *([LATER] if "record" in steps else [])]
    assert sorted(row["merge_id"] for row in rows["merges"]) == ids
    versions = {row["merge_id"]: row["version"] for row in rows["merges"]}
    assert len(set(versions.values())) == len(ids)
    assert versions[NEW] == 2
    assert (versions[OLD] > 2) == ("renumber" in steps)
    with_details = [*ids, *([] if "remove" in steps else [DEAD])]
    for table, count in (("merge_sites", 2), ("msus", 5)):
        counts = Counter(row["merge_id"] for row in rows[table])
        assert counts == dict.fromkeys(with_details, count), table


def between(
    monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object], method: str, owner: Any
) -> list[int]:
    """Lets something happen just before the first call of a method, such as one that commits."""
    real = getattr(owner, method)
    calls: list[int] = []

    def first(*args: object, **kwargs: object) -> object:
        calls.append(1)
        if len(calls) == 1:
            happens()
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, method, first)
    return calls


def pairs() -> Iterator[Any]:
    """Every pair of changes on disk, and on S3 each change as the first and as the second.

    What a store has a part in is that one of two commits is refused, whichever they are.
    """
    for first in STEPS:
        for second in STEPS:
            if second == "vacuum":
                continue
            yield pytest.param("file", first, second)
            if first == "overwrite" or second == "record":
                yield pytest.param("s3", first, second, marks=pytest.mark.s3)


@pytest.mark.parametrize(("catalog", "first", "second"), list(pairs()), indirect=["catalog"])
def test_what_another_change_overtakes_is_made_again(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, first: str, second: str
) -> None:
    from deltalake.table import TableAlterer

    owner, method = (
        (TableAlterer, "set_table_properties") if second == "properties" else (DeltaTable, COMMITS)
    )
    calls = between(monkeypatch, lambda: STEPS[first](catalog), method, owner)
    STEPS[second](catalog)
    assert calls, "it came between"
    check(catalog, {first, second})


@pytest.mark.parametrize("first", STEPS)
def test_a_vacuum_takes_nothing_that_came_meanwhile(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    compact_all(catalog)
    real = DeltaTable.vacuum
    calls: list[int] = []

    def overtaken(self: DeltaTable, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            STEPS[first](catalog)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(DeltaTable, "vacuum", overtaken)
    vacuum_all(catalog)
    check(catalog, {first})


@pytest.mark.parametrize("second", ["renumber", "remove", "compact"])
def test_a_change_whose_files_a_vacuum_took_before_it_read_them_is_made_again(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, second: str
) -> None:
    owner = compacting if second == "compact" else rewriting
    opens = between(monkeypatch, lambda: replace_all_files(catalog), "table_dataset", owner)
    STEPS[second](catalog)
    assert len(opens) > 1
    check(catalog, {second})


@pytest.mark.parametrize(
    "rows",
    [
        lambda catalog: catalog.read("adapters"),
        lambda catalog: answer(catalog, "SELECT uri FROM adapters"),
    ],
    ids=["read", "query"],
)
def test_rows_whose_files_a_vacuum_took_before_they_were_read_are_read_again(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, rows: Callable[[Catalog], pa.Table]
) -> None:
    opened: list[str] = []

    def then_replaced(handle: DeltaTable, *args: Any) -> Any:
        dataset = table_dataset(handle, *args)
        if handle.table_uri.rstrip("/").endswith("adapters"):
            opened.append(handle.table_uri)
            if len(opened) == 1:
                replace_all_files(catalog)
        return dataset

    monkeypatch.setattr(tables, "table_dataset", then_replaced)
    found = rows(catalog)["uri"].to_pylist()
    assert sorted(found) == [f"/zoo/{number}" for number in range(N_ADAPTERS)]
    assert len(opened) > 1


def test_files_that_a_vacuum_took_while_they_were_checked_are_not_damaged(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = between(monkeypatch, lambda: replace_all_files(catalog), "_problem", damage)
    assert damaged_files(catalog) == []
    assert len(calls) > N_ADAPTERS


def test_a_file_that_goes_between_two_requests_for_it_is_known_to_be_gone(
    catalog: Catalog,
) -> None:
    """On a store Arrow asks for the size and then for the bytes, and says neither as of a file."""
    name = "adapters/gone.bin"
    files = native_filesystem(catalog.uri, catalog.options())
    assert files is not None
    store = open_store(catalog.uri)
    store.create(name, b"x" * 4096)
    with files.open_input_file(name) as opened:
        opened.size()
        store.delete(name)
        if catalog.uri.startswith("s3://"):
            with pytest.raises(OSError, match="GetObject") as caught:
                opened.read()
            assert not isinstance(caught.value, FileNotFoundError)
            assert is_gone(caught.value)
    with pytest.raises(FileNotFoundError) as missing, files.open_input_file(name) as opened:
        opened.read()
    assert is_gone(missing.value)


def replace_all_files(catalog: Catalog) -> None:
    """Other files with the same rows; those before are gone."""
    overwrite(catalog)
    record_adapters(catalog, [adapter(uri=f"/zoo/{n}") for n in range(N_ADAPTERS)])
    compact_all(catalog)
    vacuum_all(catalog)


def stale_optimize(catalog: Catalog, happens: Callable[[], object]) -> int:
    """An `optimize` by the plain Delta library that something overtakes; how many tables refused it."""
    options = catalog.options()
    handles = [DeltaTable(catalog.table_uri(t), storage_options=options) for t in TABLES]
    happens()
    refused = 0
    for handle in handles:
        try:
            handle.optimize.compact()
        except CommitFailedError:
            refused += 1
    return refused


@pytest.mark.parametrize("first", STEPS)
def test_an_optimize_of_others_that_a_change_overtakes_brings_nothing_back(
    catalog: Catalog, first: str
) -> None:
    refused = stale_optimize(catalog, lambda: STEPS[first](catalog))
    assert refused or first in ("append", "record", "vacuum")
    check(catalog, {first})


@pytest.mark.parametrize("second", [name for name in STEPS if name not in ("vacuum", "properties")])
def test_a_change_that_an_optimize_of_others_overtakes_is_made_again(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, second: str
) -> None:
    def optimize() -> None:
        for table in TABLES:
            uri = catalog.table_uri(table)
            DeltaTable(uri, storage_options=catalog.options()).optimize.compact()

    between(monkeypatch, optimize, COMMITS, DeltaTable)
    STEPS[second](catalog)
    check(catalog, {second})


def test_of_two_compactions_the_loser_says_that_another_did_it(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    between(monkeypatch, lambda: compact(catalog, "adapters"), COMMITS, DeltaTable)
    assert compact(catalog, "adapters") == Compacted("adapters", N_ADAPTERS, 1, by_others=3)
    check(catalog, set())


def test_a_compaction_goes_on_behind_appends(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would never end at a busy table if it had to begin again for each."""
    written = []
    real = compact.__globals__["write_data_file"]

    def counted(*args: Any) -> Any:
        written.append(1)
        return real(*args)

    monkeypatch.setitem(compact.__globals__, "write_data_file", counted)
    between(monkeypatch, lambda: append(catalog), COMMITS, DeltaTable)
    assert compact(catalog, "adapters") == Compacted("adapters", N_ADAPTERS, 2)
    assert len(written) == 1
    check(catalog, {"append"})


def test_features_of_others_are_not_written_over(tmp_path: Path) -> None:
    catalog = Catalog(str(tmp_path))
    append(catalog)
    handle = catalog.open("adapters")
    handle.alter.add_constraint({"ranked": "rank_max > 0"})
    with pytest.raises(CatalogError, match="does not write"):
        overwrite(catalog)
    with pytest.raises(CatalogError, match="does not write"):
        record_adapters(catalog, [adapter(uri="/zoo/other")])
