"""Appending to and reading tables on disk."""

from __future__ import annotations

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from lego_ray.catalog import commit as commit_module
from lego_ray.catalog.schema import SCHEMA_VERSION, TABLES
from lego_ray.catalog.tables import Catalog
from lego_ray.catalog.versions import VERSION_KEY
from lego_ray.errors import CatalogError, CatalogNotFound, InvalidOption
from tests.catalog.sample import adapter, merge, msu

N_RACERS = 8


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(str(tmp_path / "catalog"))


def test_round_trip(catalog: Catalog) -> None:
    rows = [merge(), merge(merge_id="n" * 64, version=2)]
    catalog.append("merges", rows[:1])
    catalog.append("merges", rows[1:])
    table = catalog.read("merges")
    assert table.schema.names == list(rows[0])
    back = [{**row, "versions": dict(row["versions"])} for row in table.to_pylist()]
    assert sorted(back, key=lambda row: row["version"]) == rows
    assert catalog.read("merges", ["name"]).column_names == ["name"]


def test_the_stored_schema_is_the_one_promised(catalog: Catalog) -> None:
    for table in TABLES:
        handle = catalog.open_or_create(table)
        for field, promised in zip(handle.schema().fields, TABLES[table].schema, strict=True):
            assert field.name == promised.name
            assert field.nullable == promised.nullable
            assert field.metadata["doc"] == promised.metadata[b"doc"].decode()
        assert handle.metadata().configuration[VERSION_KEY] == str(SCHEMA_VERSION)


def test_what_was_never_written_is_not_found(catalog: Catalog) -> None:
    assert not catalog.exists("merges")
    assert catalog.tables() == ()
    with pytest.raises(CatalogNotFound, match="merges"):
        catalog.read("merges")
    assert not Path(catalog.uri).exists()


def test_nothing_to_append_makes_no_table(catalog: Catalog) -> None:
    catalog.append("msus", [])
    assert not catalog.exists("msus")


def test_an_unknown_column_is_named(catalog: Catalog) -> None:
    catalog.append("merges", [merge()])
    with pytest.raises(CatalogError, match=r"merges\.nmae"):
        catalog.read("merges", ["name", "nmae"])


def test_rows_that_do_not_fit_write_nothing(catalog: Catalog) -> None:
    with pytest.raises(CatalogError, match=r"merges\.rank"):
        catalog.append("merges", [merge(rank="high")])
    assert not catalog.exists("merges")


def test_a_table_of_a_later_version_is_refused(catalog: Catalog) -> None:
    handle = catalog.open_or_create("merges")
    handle.alter.set_table_properties(
        {VERSION_KEY: str(SCHEMA_VERSION + 1)}, raise_if_not_exists=False
    )
    for touch in (lambda: catalog.read("merges"), lambda: catalog.append("merges", [merge()])):
        with pytest.raises(CatalogError, match="Upgrade lego-ray"):
            touch()


@pytest.mark.parametrize("folder", ["plain", "with space", "uni-ö"])
def test_paths_and_file_uris_name_the_same_place(tmp_path: Path, folder: str) -> None:
    path = tmp_path / folder
    Catalog(str(path)).append("merges", [merge()])
    Catalog(path.as_uri() + "/").append("merges", [merge(merge_id="n" * 64)])
    assert Catalog(str(path)).read("merges").num_rows == 2


def test_a_percent_code_in_a_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="percent"):
        Catalog(str(tmp_path / "a%20b")).append("merges", [merge()])


def test_a_catalog_pickles_and_hides_its_secrets() -> None:
    catalog = Catalog("s3://bucket/catalog", {"AWS_SECRET_ACCESS_KEY": "hush"})
    assert pickle.loads(pickle.dumps(catalog)) == catalog
    assert "hush" not in repr(catalog)


def test_racing_creators_lose_and_double_nothing(catalog: Catalog) -> None:
    barrier = Barrier(N_RACERS)

    def race(i: int) -> None:
        barrier.wait()
        catalog.append("msus", [msu(rank_index=i)])

    with ThreadPoolExecutor(N_RACERS) as pool:
        list(pool.map(race, range(N_RACERS)))
    table = catalog.open("msus").to_pyarrow_table(filesystem=catalog.filesystem("msus"))
    assert sorted(table["rank_index"].to_pylist()) == list(range(N_RACERS))


def test_a_named_append_is_made_once(catalog: Catalog) -> None:
    for _ in range(3):
        catalog.append("adapters", [adapter()], idempotency=("load", 1))
    assert catalog.open("adapters").version() == 1
    catalog.append("adapters", [adapter()], idempotency=("load", 2))
    catalog.append("adapters", [adapter()], idempotency=("load", 1))
    assert catalog.read("adapters").num_rows == 2


def test_racing_appends_of_one_name_are_made_once(catalog: Catalog) -> None:
    barrier = Barrier(N_RACERS)

    def race(_: int) -> None:
        barrier.wait()
        catalog.append("adapters", [adapter()], idempotency=("load", 1))

    with ThreadPoolExecutor(N_RACERS) as pool:
        list(pool.map(race, range(N_RACERS)))
    assert catalog.read("adapters").num_rows == 1


@pytest.mark.parametrize("failure", ["conflict", "network"])
def test_a_commit_whose_answer_got_lost_is_not_made_twice(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    import deltalake
    from deltalake.exceptions import CommitFailedError

    error = {"conflict": CommitFailedError("lost"), "network": OSError("operation timed out")}
    real = deltalake.DeltaTable.create_write_transaction
    calls = []

    def lossy(*args: Any, **kwargs: Any) -> None:
        calls.append(1)
        real(*args, **kwargs)
        if len(calls) == 1:
            raise error[failure]

    monkeypatch.setattr(deltalake.DeltaTable, "create_write_transaction", lossy)
    catalog.append("adapters", [adapter()])
    assert len(calls) == 1
    assert catalog.read("adapters").num_rows == 1


def test_conflicts_without_end_are_an_error(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    import deltalake
    from deltalake.exceptions import CommitFailedError

    def losing(*args: Any, **kwargs: Any) -> None:
        raise CommitFailedError("overtaken")

    monkeypatch.setattr(deltalake.DeltaTable, "create_write_transaction", losing)
    monkeypatch.setattr(commit_module, "wait_after", lambda attempt: None)
    with pytest.raises(CatalogError, match="lost to other writers"):
        catalog.append("adapters", [adapter()])


def test_a_process_that_read_many_files_ends_in_peace(catalog: Catalog) -> None:
    # Through the Delta library's own file system this aborts now and then, with status -6.
    for i in range(60):
        catalog.append("adapters", [adapter(uri=f"/zoo/{i}")])
    program = f"""
from lego_ray.catalog.tables import Catalog
assert Catalog({catalog.uri!r}).read("adapters").num_rows == 60
"""
    for _ in range(4):
        subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
