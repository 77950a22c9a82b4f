"""Appending to and reading tables on disk."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from deltalake.schema import Field, PrimitiveType

from lego_ray.catalog import commit as commit_module
from lego_ray.catalog.opening import check_before_writing
from lego_ray.catalog.schema import SCHEMA_VERSION, TABLES
from lego_ray.catalog.tables import Catalog
from lego_ray.catalog.versions import VERSION_KEY
from lego_ray.errors import CatalogError, CatalogNotFound, UnsupportedUri
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


@pytest.mark.parametrize("folder", ["hash#x", "qu?x", "50%", "a~b", "{x}", "a&b=c;d", "p+q", "a:b"])
def test_a_path_may_have_what_a_url_may_not(tmp_path: Path, folder: str) -> None:
    path = tmp_path / folder
    Catalog(str(path)).append("merges", [merge()])
    assert Catalog(str(path)).read("merges").num_rows == 1
    assert [each.name for each in tmp_path.iterdir()] == [folder]
    assert (path / "merges/_delta_log").is_dir()


@pytest.mark.parametrize("folder", ["a%20b", "run[1]", "a]", "a^b", "a|b", "a\\b", "a\nb"])
def test_a_path_that_the_delta_library_would_misread_is_refused(
    tmp_path: Path, folder: str
) -> None:
    catalog = Catalog(str(tmp_path / folder))
    with pytest.raises(UnsupportedUri, match="a catalog's path"):
        catalog.append("merges", [merge()])
    with pytest.raises(UnsupportedUri, match="a catalog's path"):
        catalog.check_writable()
    assert list(tmp_path.iterdir()) == []


FEATURES = {
    "clustering": ([], ["clustering", "domainMetadata"]),
    "rowTracking": ([], ["rowTracking", "domainMetadata"]),
    "deletionVectors": (["deletionVectors"], ["deletionVectors"]),
    "columnMapping": (["columnMapping"], ["columnMapping"]),
    "v2Checkpoint": (["v2Checkpoint"], ["v2Checkpoint"]),
}


def give_features(table: Path, reader: list[str], writer: list[str]) -> None:
    """Gives a table features, as another program does."""
    protocol: dict[str, Any] = {"minReaderVersion": 3 if reader else 1, "minWriterVersion": 7}
    protocol["writerFeatures"] = ["appendOnly", "invariants", *writer]
    if reader:
        protocol["readerFeatures"] = reader
    log = table / "_delta_log"
    number = len(list(log.glob("*.json")))
    (log / f"{number:020d}.json").write_text(json.dumps({"protocol": protocol}) + "\n")


@pytest.mark.parametrize("feature", list(FEATURES))
def test_a_table_with_features_of_others_is_found_before_it_is_written(
    tmp_path: Path, feature: str
) -> None:
    catalog = Catalog(str(tmp_path))
    catalog.append("merges", [merge()])
    reader, writer = FEATURES[feature]
    give_features(tmp_path / "merges", reader, writer)
    with pytest.raises(CatalogError, match=f"{feature}.*does not write.*DROP FEATURE"):
        catalog.check_writable()
    catalog.check_writable(("adapters",))
    if reader:
        with pytest.raises(CatalogError, match=f"{feature}.*cannot read.*DROP FEATURE"):
            catalog.read("merges")
    else:
        assert catalog.read("merges").num_rows == 1


def test_a_column_of_others_is_null_in_new_rows(tmp_path: Path) -> None:
    catalog = Catalog(str(tmp_path))
    catalog.append("merges", [merge()])
    handle = catalog.open("merges")
    handle.alter.add_columns([Field("owner_team", PrimitiveType("string"))])
    catalog.check_writable()
    catalog.append("merges", [merge(merge_id="n" * 64)])
    assert catalog.read("merges", ["owner_team"])["owner_team"].to_pylist() == [None, None]


def test_a_column_of_others_that_may_not_be_null_is_refused(tmp_path: Path) -> None:
    spec = TABLES["merges"].schema
    DeltaTable.create(
        str(tmp_path / "merges"),
        spec.append(pa.field("owner", pa.string(), nullable=False)),
        configuration={VERSION_KEY: str(SCHEMA_VERSION)},
        raise_if_key_not_exists=False,
    )
    with pytest.raises(CatalogError, match=r"merges\.owner.*may not be null"):
        Catalog(str(tmp_path)).check_writable()


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

    error = {
        "conflict": CommitFailedError("Tried committing existing table version: 1"),
        "network": OSError("operation timed out"),
    }
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
        raise CommitFailedError("Failed to commit transaction: overtaken")

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


@pytest.mark.parametrize("below", ["", "sub", "sub/sub"])
def test_a_file_where_the_catalog_should_be_is_named(below: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"mine")
    catalog = Catalog(str(file / below))
    for call in (
        lambda: catalog.open("merges"),
        catalog.required_tables,
        lambda: check_before_writing(catalog),
    ):
        with pytest.raises(CatalogError, match="is a file, and a catalog is a directory") as caught:
            call()
        assert str(file) in str(caught.value)
        assert "--catalog" in str(caught.value)
    assert file.read_bytes() == b"mine"
