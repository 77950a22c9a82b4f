"""A vacuum removes what is out of use, and never what a running reader needs, on disk and on S3."""

from __future__ import annotations

import multiprocessing
import os
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from pyarrow import fs

from lego_ray.catalog.tables import Catalog
from lego_ray.catalog.upkeep.compact import compact
from lego_ray.catalog.upkeep.durations import KEPT, SHORTEST
from lego_ray.catalog.upkeep.vacuum import vacuum
from lego_ray.errors import CatalogError, InvalidOption
from tests.catalog.sample import adapter, merge, msu
from tests.catalog.stores import STORES, fresh_catalog

N_FILES = 6
N_AT_ONCE = 4
NONE = timedelta(0)


@pytest.fixture(params=STORES)
def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> Catalog:
    """A table of a few files."""
    catalog = fresh_catalog(request, tmp_path)
    catalog.append("merges", [merge()])
    for i in range(N_FILES):
        catalog.append("msus", [msu(rank_index=i)])
    return catalog


@pytest.fixture
def on_disk(tmp_path: Path) -> Catalog:
    catalog = Catalog(str(tmp_path / "catalog"))
    for i in range(N_FILES):
        catalog.append("adapters", [adapter(uri=f"/zoo/{i}")])
    return catalog


def read_slowly(catalog: Catalog, pipe: Connection) -> None:
    """Opens the table, reads one file of it, waits to be told, and reads the others."""
    parts = iter(catalog.whole("msus").get_fragments())
    read = next(parts).to_table()["rank_index"].to_pylist()
    pipe.send("opened")
    pipe.recv()
    try:
        for part in parts:
            read += part.to_table()["rank_index"].to_pylist()
        pipe.send(sorted(read))
    except OSError as error:
        pipe.send(type(error).__name__)


def after(catalog: Catalog, retention: timedelta, force: bool) -> tuple[object, int]:
    """What a reader in another process reads in the end, and the files removed while it read."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    reader = spawn.Process(target=read_slowly, args=(catalog, theirs))
    reader.start()
    assert ours.recv() == "opened"
    compact(catalog, "msus")
    removed = vacuum(catalog, "msus", retention, force=force).files
    ours.send("go on")
    read = ours.recv()
    reader.join()
    return read, removed


def test_a_running_reader_goes_on_through_compact_and_vacuum(catalog: Catalog) -> None:
    assert after(catalog, SHORTEST, force=False) == (list(range(N_FILES)), 0)
    assert catalog.read("msus").num_rows == N_FILES


def test_without_retention_it_would_not(catalog: Catalog) -> None:
    """So that the test above shows something; and what is forced is done."""
    read, removed = after(catalog, NONE, force=True)
    assert read == "FileNotFoundError"
    assert removed == N_FILES
    assert catalog.read("msus").num_rows == N_FILES


def test_age_counts_from_when_a_file_was_replaced(on_disk: Catalog) -> None:
    month_ago = time.time() - timedelta(days=30).total_seconds()
    for file in Path(on_disk.table_uri("adapters")).glob("*.parquet"):
        os.utime(file, (month_ago, month_ago))
    compact(on_disk, "adapters")
    assert vacuum(on_disk, "adapters").files == 0


def test_what_a_crashed_writer_left_goes_after_the_retention(on_disk: Catalog) -> None:
    stray = Path(on_disk.table_uri("adapters"), "part-00000-stray-c000.snappy.parquet")
    stray.write_bytes(b"x" * 10)
    assert vacuum(on_disk, "adapters").files == 0
    old = time.time() - KEPT.total_seconds() - 3600
    os.utime(stray, (old, old))
    done = vacuum(on_disk, "adapters")
    assert (done.files, done.n_bytes) == (1, 10)
    assert not stray.exists()


def test_files_of_earlier_vacuums_are_not_asked_for_again(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log names them for a week: a request for each would make every vacuum slower than the last."""
    asked: list[Any] = []

    class Asked:
        def __init__(self, files: fs.FileSystem) -> None:
            self._files = files

        def get_file_info(self, what: Any) -> Any:
            asked.append(what)
            return self._files.get_file_info(what)

    opened = Catalog.filesystem
    monkeypatch.setattr(Catalog, "filesystem", lambda of, table: Asked(opened(of, table)))
    for _ in range(2):
        compact(catalog, "msus")
        assert vacuum(catalog, "msus", NONE, force=True).files == N_FILES
        assert vacuum(catalog, "msus", NONE, force=True).files == 0
        for i in range(N_FILES - 1):
            catalog.append("msus", [msu(rank_index=i)])
    assert len(asked) == 4
    assert all(isinstance(what, fs.FileSelector) for what in asked)


def test_a_dry_run_says_what_would_go_and_keeps_it(on_disk: Catalog) -> None:
    compact(on_disk, "adapters")
    before = sorted(Path(on_disk.uri).rglob("*"))
    told = vacuum(on_disk, "adapters", NONE, dry_run=True, force=True)
    assert told.files == N_FILES
    assert told.n_bytes > 0
    assert sorted(Path(on_disk.uri).rglob("*")) == before
    assert vacuum(on_disk, "adapters", NONE, force=True) == told
    version = on_disk.open("adapters").version()
    again = vacuum(on_disk, "adapters", NONE, force=True)
    assert (again.files, again.n_bytes) == (0, 0)
    assert on_disk.open("adapters").version() == version, "nothing to do is not a commit"


@pytest.mark.parametrize("retention", [SHORTEST - timedelta(seconds=1), NONE])
def test_a_short_retention_must_be_meant(on_disk: Catalog, retention: timedelta) -> None:
    compact(on_disk, "adapters")
    with pytest.raises(InvalidOption, match="--force"):
        vacuum(on_disk, "adapters", retention)
    assert vacuum(on_disk, "adapters", NONE, dry_run=True, force=True).files == N_FILES


@pytest.mark.parametrize("name", ["notes.txt", "some-adapter/adapter_model.safetensors"])
def test_files_of_others_in_a_tables_directory_stop_it(on_disk: Catalog, name: str) -> None:
    """A catalog at the root of a zoo that lies in `adapters` would be one."""
    compact(on_disk, "adapters")
    other = Path(on_disk.table_uri("adapters"), name)
    other.parent.mkdir(exist_ok=True)
    other.write_text("someone's work")
    old = time.time() - KEPT.total_seconds() - 3600
    os.utime(other, (old, old))
    with pytest.raises(CatalogError, match=name):
        vacuum(on_disk, "adapters", NONE, force=True)
    assert other.exists()
    assert len(list(Path(on_disk.table_uri("adapters")).glob("*.parquet"))) == N_FILES + 1


def test_a_file_that_a_writer_is_about_to_commit_is_kept_even_without_retention(
    on_disk: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deltalake import DeltaTable

    real = DeltaTable.create_write_transaction

    def delayed(self: DeltaTable, *args: Any, **kwargs: Any) -> None:
        vacuum(on_disk, "adapters", NONE, force=True)
        real(self, *args, **kwargs)

    monkeypatch.setattr(DeltaTable, "create_write_transaction", delayed)
    on_disk.append("adapters", [adapter(uri="/zoo/new")])
    assert on_disk.read("adapters").num_rows == N_FILES + 1
    assert compact(on_disk, "adapters").files_after == 1
    assert on_disk.read("adapters").num_rows == N_FILES + 1


def test_vacuums_at_once_remove_each_file_once_and_none_fails(on_disk: Catalog) -> None:
    compact(on_disk, "adapters")
    barrier = Barrier(N_AT_ONCE)

    def race(_: int) -> int:
        barrier.wait()
        return vacuum(on_disk, "adapters", NONE, force=True).files

    with ThreadPoolExecutor(N_AT_ONCE) as pool:
        done = list(pool.map(race, range(N_AT_ONCE)))
    assert set(done) <= set(range(N_FILES + 1))
    assert max(done) > 0
    assert len(list(Path(on_disk.table_uri("adapters")).glob("*.parquet"))) == 1
    assert on_disk.read("adapters").num_rows == N_FILES


def test_a_reading_that_a_vacuum_without_retention_overtakes_is_done_again(
    on_disk: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Catalog.open
    calls = []

    def overtaken(self: Catalog, table: str) -> object:
        handle = real(self, table)
        calls.append(1)
        if len(calls) == 1:
            compact(on_disk, "adapters")
            vacuum(on_disk, "adapters", NONE, force=True)
        return handle

    monkeypatch.setattr(Catalog, "open", overtaken)
    assert on_disk.read("adapters").num_rows == N_FILES
