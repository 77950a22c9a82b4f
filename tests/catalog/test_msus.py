"""A merge's rows of `msus`: in bounded files, once each, sorted so that a reader reads a few of them."""

from __future__ import annotations

import os
import pickle
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake.exceptions import CommitFailedError

from lego_ray.catalog import data_files, msu_files, msus
from lego_ray.catalog.changes import Files
from lego_ray.catalog.damage import damaged_files
from lego_ray.catalog.merges import append_merge
from lego_ray.catalog.msu_files import MsuFiles
from lego_ray.catalog.msus import MsuRows, SiteMsus
from lego_ray.catalog.tables import Catalog
from lego_ray.catalog.upkeep.vacuum import vacuum
from lego_ray.errors import CatalogError
from tests.catalog.sample import details, merge
from tests.catalog.stores import STORES, fresh_catalog

IDS = ["b" * 64, "c" * 64, "a" * 64]
RANKS = 3


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(str(tmp_path / "catalog"))


def rows(sites: int = 4, **changes: Any) -> MsuRows:
    n = len(IDS) * RANKS
    adapters = np.repeat(np.arange(len(IDS), dtype=np.int32), RANKS)
    ranks = np.tile(np.arange(RANKS, dtype=np.int32), len(IDS))
    return MsuRows(
        "m" * 64,
        IDS,
        [
            SiteMsus(
                f"layers.{number}.q_proj",
                adapters,
                ranks,
                ranks + np.int32(number),
                None if number % 2 else np.linspace(0, 1, n),
                np.linspace(1, 2, n) + number,
            )
            for number in range(sites)
        ],
        **changes,
    )


def plain(rows: MsuRows) -> list[dict[str, Any]]:
    """The same row by row."""
    return [
        {
            "merge_id": rows.merge_id,
            "site": site.site,
            "adapter_id": IDS[site.adapters[at]],
            "rank_index": int(site.ranks[at]),
            "cluster": int(site.clusters[at]),
            "distance": None if site.distances is None else float(site.distances[at]),
            "weight": float(site.weights[at]) if site.weights is not None else None,
        }
        for site in rows.sites
        for at in range(len(site.adapters))
    ]


def sorted_rows(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(found, key=lambda row: (row["site"], row["adapter_id"], row["rank_index"]))


def files_of(catalog: Catalog) -> set[str]:
    return {path.name for path in Path(catalog.table_uri("msus")).glob("*.parquet")}


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(msus, "GROUP_ROWS", RANKS)
    monkeypatch.setattr(data_files, "GROUP_ROWS", RANKS)


def test_rows_of_several_files_are_committed_at_once_and_are_what_they_are_row_by_row(
    catalog: Catalog,
) -> None:
    given = rows(file_rows=2 * len(IDS) * RANKS + 1)
    assert append_merge(catalog, merge(), details()[0], given)
    table = catalog.open("msus")
    assert table.version() == 1
    assert len(files_of(catalog)) == len(table.file_uris()) == 2
    assert catalog.read("msus").to_pylist() == plain(given)
    assert not append_merge(catalog, merge(), details()[0], given)
    assert len(files_of(catalog)) == 2


def test_a_text_is_in_memory_once(catalog: Catalog) -> None:
    n = 10_000
    numbers = np.arange(n, dtype=np.int32)
    site = SiteMsus("q", numbers % 3, numbers, numbers, None, None)
    assert MsuRows("m" * 64, IDS, [site]).table().nbytes < 40 * n


def test_one_adapter_or_site_is_found_in_a_few_row_groups(
    catalog: Catalog, small_groups: None
) -> None:
    given = rows(file_rows=2 * len(IDS) * RANKS)
    append_merge(catalog, merge(), details()[0], given)
    stored = catalog.whole("msus")
    [part, other] = stored.get_fragments()
    assert other.metadata.num_row_groups == 2 * len(IDS)
    mine = pc.field("adapter_id") == IDS[2]
    assert len(part.split_by_row_group(filter=mine)) == 2
    found = catalog.read("msus", where=mine).to_pylist()
    assert found == [row for row in plain(given) if row["adapter_id"] == IDS[2]]  # in their order
    site = pc.field("site") == "layers.3.q_proj"
    assert [each.path for each in catalog.whole("msus", site).get_fragments()] == [other.path]
    assert sorted_rows(catalog.read("msus").to_pylist()) == sorted_rows(plain(given))
    path = Path(catalog.table_uri("msus"), other.path)
    assert pq.read_schema(path).field("site").type == "string"


@pytest.mark.parametrize("lost", ["race", "answer"])
def test_a_commit_that_is_tried_again_writes_no_file_again(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    real = Files.apply
    tries = 0

    def failing(self: Files, handle: Any) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            if lost == "race":
                raise CommitFailedError("Transaction failed: version 1 already exists: conflict")
            real(self, handle)
            raise OSError("error sending request: connection closed before message completed")
        real(self, handle)

    monkeypatch.setattr(Files, "apply", failing)
    monkeypatch.setattr("lego_ray.catalog.commit.is_conflict", lambda error: True)
    given = rows(file_rows=len(IDS) * RANKS)
    append_merge(catalog, merge(), details()[0], given)
    assert len(files_of(catalog)) == 4
    assert catalog.read("msus").num_rows == given.num_rows


def test_files_of_a_run_that_was_killed_are_vacuumed(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = rows(file_rows=len(IDS) * RANKS)

    def killed(self: Files, handle: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Files, "apply", killed)
        with pytest.raises(KeyboardInterrupt):
            append_merge(catalog, merge(), details()[0], given)
    left = files_of(catalog)
    assert len(left) == 4
    append_merge(catalog, merge(), details()[0], given)
    old = time.time() - timedelta(days=8).total_seconds()
    for name in left:
        os.utime(Path(catalog.table_uri("msus"), name), (old, old))
    assert vacuum(catalog, "msus").files == 4
    assert catalog.read("msus").num_rows == given.num_rows


@pytest.fixture(params=STORES)
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Catalog:
    return fresh_catalog(request, tmp_path)


def test_rows_that_are_written_before_their_merge_is_recorded_are_there_once(
    anywhere: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the run, or by a worker; copied, as in a run of days, before a vacuum takes them."""
    given = rows()
    files = MsuFiles(anywhere, given.merge_id, IDS, file_rows=len(IDS) * RANKS)
    files.add(given.sites[:2])  # the second waits for more
    assert files.num_rows == given.num_rows // 2
    target = pickle.loads(pickle.dumps(files.target()))
    assert replace(target, table="of another catalog").write(given.sites[2:]) == ()
    files.adopt(target.write(given.sites[2:]))
    assert files.num_rows == given.num_rows
    assert anywhere.whole("msus").count_rows() == 0
    before = {file.name for file in files.files()}
    monkeypatch.setattr(msu_files, "_RENEWED_AFTER", timedelta(days=-1))
    files.add([])
    monkeypatch.undo()
    assert before.isdisjoint(file.name for file in files.files())
    assert append_merge(anywhere, merge(), details()[0], files)
    assert sorted_rows(anywhere.read("msus").to_pylist()) == sorted_rows(plain(given))
    assert damaged_files(anywhere) == []
    assert not append_merge(anywhere, merge(), details()[0], files)
    assert anywhere.open("msus").version() == 1


def test_a_worker_that_sees_no_table_writes_nothing(catalog: Catalog, tmp_path: Path) -> None:
    target = MsuFiles(catalog, "m" * 64, IDS).target()
    Path(catalog.uri).rename(tmp_path / "elsewhere")
    assert target.write(rows().sites) == ()
    assert not Path(catalog.uri).exists()


def test_rows_of_another_merge_are_refused(catalog: Catalog) -> None:
    with pytest.raises(CatalogError, match="not of merge n"):
        append_merge(catalog, merge(merge_id="n" * 64), details("n" * 64)[0], rows())
    assert catalog.tables() == ()
