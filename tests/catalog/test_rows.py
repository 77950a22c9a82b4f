"""Rows that do not fit are refused, and the error names the column."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pyarrow as pa
import pytest

from lego_ray.catalog.rows import conform
from lego_ray.catalog.schema import TABLES
from lego_ray.errors import CatalogError
from tests.catalog.sample import NOW, adapter, merge, msu, refused


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"clusters": 1}, "msus.clusters"),
        ({"site": None}, "msus.site"),
        ({"cluster": "one"}, "msus.cluster"),
        ({"cluster": 2**40}, "msus.cluster"),
        ({"site": 7}, "msus.site"),
        ({"distance": "far"}, "msus.distance"),
    ],
)
def test_a_row_that_does_not_fit_names_its_column(changes: dict[str, Any], where: str) -> None:
    with pytest.raises(CatalogError) as caught:
        conform("msus", [msu(), msu(**changes)])
    assert caught.value.where == where


def test_a_near_name_is_suggested() -> None:
    with pytest.raises(CatalogError, match=r"Did you mean cluster\?"):
        conform("msus", [msu(clusters=1)])


def test_a_missing_column_is_named() -> None:
    row = msu()
    del row["cluster"]
    with pytest.raises(CatalogError, match=r"msus\.cluster: the column is missing"):
        conform("msus", [row])


def test_a_missing_nullable_column_is_null() -> None:
    assert conform("adapters", [refused()])["n_bytes"].to_pylist() == [None]
    table = pa.Table.from_pylist([refused()])
    assert conform("adapters", table)["n_bytes"].to_pylist() == [None]


def test_a_time_without_zone_is_refused_and_another_zone_is_converted() -> None:
    with pytest.raises(CatalogError, match=r"adapters\.scanned_at"):
        conform("adapters", [adapter(scanned_at=datetime(2026, 1, 1))])
    naive = pa.Table.from_pylist([refused()])
    index = naive.schema.get_field_index("scanned_at")
    times = pa.array([datetime(2026, 1, 1)])
    with pytest.raises(CatalogError, match=r"adapters\.scanned_at"):
        conform("adapters", naive.set_column(index, "scanned_at", times))
    elsewhere = NOW.astimezone(timezone(timedelta(hours=5)))
    assert conform("adapters", [adapter(scanned_at=elsewhere)])["scanned_at"].to_pylist() == [NOW]


def test_a_table_is_put_in_order_and_narrowed_where_no_value_changes() -> None:
    given = pa.Table.from_pylist([msu(), msu(rank_index=5)]).select(list(reversed(msu())))
    assert given["rank_index"].type == pa.int64()
    table = conform("msus", given)
    assert table.schema.equals(TABLES["msus"].schema, check_metadata=True)
    assert table.to_pylist() == [msu(), msu(rank_index=5)]


def test_a_table_of_another_type_names_the_column() -> None:
    given = pa.Table.from_pylist([msu()])
    for column, values in {"cluster": pa.array([2**40]), "site": pa.array([1])}.items():
        index = given.schema.get_field_index(column)
        with pytest.raises(CatalogError, match=rf"msus\.{column}: got int64"):
            conform("msus", given.set_column(index, column, values))


def test_maps_are_taken_as_mappings() -> None:
    table = conform("merges", [merge()])
    assert dict(table["versions"][0].as_py()) == merge()["versions"]
    assert table["seed"].to_pylist() == [2**62]


def test_an_unknown_table_is_refused() -> None:
    with pytest.raises(CatalogError, match="no such table"):
        conform("adapter", [])
