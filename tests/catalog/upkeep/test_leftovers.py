"""Details that no merge claims are taken away, and those of a merge under way never."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from lego_ray.catalog.merges import append_merge
from lego_ray.catalog.tables import Catalog
from lego_ray.catalog.upkeep import leftovers
from lego_ray.catalog.upkeep.compact import compact
from lego_ray.catalog.upkeep.leftovers import find_leftovers, remove_leftovers
from lego_ray.catalog.upkeep.vacuum import vacuum
from tests.catalog.sample import details, merge

DAY = timedelta(days=1)
# Commits are dated in whole milliseconds.
INSTANT = timedelta(milliseconds=20)
DEAD, WHOLE = "d" * 64, "w" * 64
ROWS = {"merge_sites": 2, "msus": 5}


def cut_short(catalog: Catalog, merge_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ended between its details and its row."""
    real = Catalog.open_or_create

    def crashing(self: Catalog, table: str) -> object:
        if table == "merges":
            raise KeyboardInterrupt
        return real(self, table)

    with monkeypatch.context() as patch:
        patch.setattr(Catalog, "open_or_create", crashing)
        with pytest.raises(KeyboardInterrupt):
            append_merge(catalog, merge(merge_id=merge_id, version=None), *details(merge_id))


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Catalog:
    """One whole merge, and the details of one that was cut short."""
    catalog = Catalog(str(tmp_path / "catalog"))
    append_merge(catalog, merge(merge_id=WHOLE), *details(WHOLE))
    cut_short(catalog, DEAD, monkeypatch)
    time.sleep(2 * INSTANT.total_seconds())
    return catalog


def rows_of(catalog: Catalog, merge_id: str) -> dict[str, int]:
    return {
        table: catalog.whole(table).to_table().column("merge_id").to_pylist().count(merge_id)
        for table in ROWS
    }


def test_they_are_found_once_they_are_old_enough(catalog: Catalog) -> None:
    assert find_leftovers(catalog, DAY) == ([], [])
    found, unseen = find_leftovers(catalog, INSTANT)
    assert {each.table: (each.merge_id, each.rows) for each in found} == {
        table: (DEAD, rows) for table, rows in ROWS.items()
    }
    assert unseen == []
    assert rows_of(catalog, DEAD) == ROWS, "looking changes nothing"


def test_they_are_taken_away_and_nothing_else(catalog: Catalog) -> None:
    found, _ = find_leftovers(catalog, INSTANT)
    assert remove_leftovers(catalog, found) == 7
    assert rows_of(catalog, DEAD) == {"merge_sites": 0, "msus": 0}
    assert rows_of(catalog, WHOLE) == ROWS
    assert remove_leftovers(catalog, found) == 0
    assert find_leftovers(catalog, INSTANT) == ([], [])


def test_a_run_that_goes_on_after_they_were_taken_writes_them_again(catalog: Catalog) -> None:
    found, _ = find_leftovers(catalog, INSTANT)
    remove_leftovers(catalog, found)
    for _ in range(2):
        append_merge(catalog, merge(merge_id=DEAD, version=None), *details(DEAD))
    assert rows_of(catalog, DEAD) == ROWS
    assert catalog.read("merges").num_rows == 2


def test_a_run_that_went_on_since_they_were_found_keeps_them(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, _ = find_leftovers(catalog, INSTANT)
    # It finds its details there, and is about to write its row.
    cut_short(catalog, DEAD, monkeypatch)
    assert remove_leftovers(catalog, found) == 0
    assert rows_of(catalog, DEAD) == ROWS
    assert append_merge(catalog, merge(merge_id=DEAD, version=None), *details(DEAD))
    assert rows_of(catalog, DEAD) == ROWS


@pytest.mark.parametrize("first", ["collection", "run"])
def test_a_run_and_a_collection_at_once_end_with_a_whole_merge(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """Each looks at the tables before the other writes, and finds out when it writes itself."""
    found, _ = find_leftovers(catalog, INSTANT)

    def record() -> bool:
        return append_merge(catalog, merge(merge_id=DEAD, version=None), *details(DEAD))

    def collect() -> int:
        return remove_leftovers(catalog, found)

    inner: Callable[[], object] = collect if first == "run" else record
    outer: Callable[[], object] = record if first == "run" else collect
    name = "Files" if first == "run" else "Removal"
    module = "lego_ray.catalog.merges" if first == "run" else "lego_ray.catalog.upkeep.leftovers"
    made = __import__("lego_ray.catalog.changes", fromlist=[name])
    real = getattr(made, name)
    calls = []

    def between(*args: object, **kwargs: object) -> object:
        change = real(*args, **kwargs)
        calls.append(1)
        if len(calls) == 1:
            inner()
        return change

    monkeypatch.setattr(f"{module}.{name}", between)
    outer()
    assert len(calls) > 1 or first == "collection"
    assert rows_of(catalog, DEAD) == ROWS
    assert sorted(catalog.read("merges")["merge_id"].to_pylist()) == [DEAD, WHOLE]


def test_many_are_taken_away_in_several_commits(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_short(catalog, "e" * 64, monkeypatch)
    time.sleep(2 * INSTANT.total_seconds())
    monkeypatch.setattr(leftovers, "_AT_ONCE", 1)
    found, _ = find_leftovers(catalog, INSTANT)
    assert remove_leftovers(catalog, found) == 14
    assert rows_of(catalog, WHOLE) == ROWS


def test_a_catalog_whose_only_merge_was_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = Catalog(str(tmp_path))
    assert find_leftovers(catalog, INSTANT) == ([], [])
    cut_short(catalog, DEAD, monkeypatch)
    time.sleep(2 * INSTANT.total_seconds())
    found, _ = find_leftovers(catalog, INSTANT)
    assert remove_leftovers(catalog, found) == 7


def test_what_cannot_be_looked_at_is_said(catalog: Catalog) -> None:
    handle = catalog.open("msus")
    handle.create_checkpoint()
    for version in range(handle.version()):
        Path(catalog.table_uri("msus"), "_delta_log", f"{version:020d}.json").unlink()
    found, unseen = find_leftovers(catalog, DAY)
    assert found == []
    assert [text.split(":")[0] for text in unseen] == [catalog.table_uri("msus")]


def test_a_vacuum_that_takes_the_former_state_away_meanwhile_is_told_of(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = leftovers._recorded

    def overtaken(catalog: Catalog) -> set[str]:
        for table in ("merge_sites", "msus"):
            compact(catalog, table)
            vacuum(catalog, table, timedelta(0), force=True)
        return real(catalog)

    monkeypatch.setattr(leftovers, "_recorded", overtaken)
    found, unseen = find_leftovers(catalog, INSTANT)
    assert not found
    assert len(unseen) == 2
    assert rows_of(catalog, WHOLE) == ROWS
