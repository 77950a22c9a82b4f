"""Groupings in the catalog: written once, and seen beside the merges they led to."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from lego_ray.audit.check import check_catalog
from lego_ray.catalog.adapters import record_adapters
from lego_ray.catalog.ancestry import lineage
from lego_ray.catalog.groups import group_of_merge, record_groups
from lego_ray.catalog.history import show
from lego_ray.catalog.merges import append_merge
from lego_ray.catalog.tables import Catalog
from lego_ray.catalog.upkeep.compact import compact
from lego_ray.catalog.upkeep.leftovers import find_leftovers
from lego_ray.catalog.upkeep.vacuum import vacuum
from lego_ray.errors import CatalogError
from tests.catalog.sample import adapter, details, group, merge

M = "m" * 64
ROWS = [
    group(merge_id=M, similarity=0.25),
    group(merge_id=M, adapter_id="b" * 64, uri="/zoo/b", similarity=0.75),
    group(group_name=None, adapter_id="c" * 64, uri="/zoo/c", status="alone", similarity=None),
]


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    catalog = Catalog(str(tmp_path))
    record_adapters(catalog, [adapter(), adapter(adapter_id="b" * 64, uri="/zoo/b")])
    append_merge(catalog, merge(), *details())
    return catalog


def test_a_grouping_is_recorded_once_however_many_do_it(catalog: Catalog) -> None:
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: record_groups(catalog, ROWS), range(4)))
    assert sorted(catalog.read("groups").to_pylist(), key=lambda r: str(r["uri"])) == ROWS
    record_groups(catalog, [{**row, "grouping_id": "h" * 64} for row in ROWS])
    assert catalog.read("groups").num_rows == 6
    record_groups(catalog, [])


def test_rows_of_two_groupings_are_no_grouping(catalog: Catalog) -> None:
    with pytest.raises(CatalogError, match="2 groupings"):
        record_groups(catalog, [*ROWS, group(grouping_id="h" * 64)])
    assert not catalog.exists("groups")


def test_a_merge_shows_its_group(catalog: Catalog) -> None:
    assert show(catalog, "support").groups.num_rows == 0
    record_groups(catalog, ROWS)
    assert show(catalog, "support").groups["uri"].to_pylist() == ["/zoo/b", "/zoo/a"]
    assert group_of_merge(catalog, "n" * 64).num_rows == 0
    assert lineage(catalog, "support")["similarity"].to_pylist() == [0.25, 0.75]


def test_upkeep_knows_the_table(catalog: Catalog) -> None:
    record_groups(catalog, ROWS)
    record_groups(catalog, [{**row, "grouping_id": "h" * 64} for row in ROWS])
    assert compact(catalog, "groups").files_after == 1
    assert vacuum(catalog, "groups", dry_run=True).files == 0
    assert find_leftovers(catalog, timedelta(0))[0] == []
    assert catalog.read("groups").num_rows == 6


@pytest.mark.parametrize(
    "rows",
    [ROWS[:1], [*ROWS, group(merge_id=M, adapter_id="d" * 64)]],
    ids=["too few", "another"],
)
def test_check_names_a_group_that_is_not_what_was_merged(
    catalog: Catalog, rows: list[dict[str, object]]
) -> None:
    def found() -> list[dict[str, object]]:
        problems = check_catalog(catalog.uri)["problems"]
        return [p for p in problems if str(p["where"]).endswith("/groups")]

    record_groups(catalog, ROWS)
    assert found() == []
    record_groups(catalog, [{**row, "grouping_id": "h" * 64} for row in rows])
    [problem] = found()
    assert "grouping hhhhhhhhhhhh" in str(problem["problem"])
