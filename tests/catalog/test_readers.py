"""The tables as other tools read them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lego_ray.catalog.adapters import record_adapters
from lego_ray.catalog.merges import append_merge
from lego_ray.catalog.schema import TABLES
from lego_ray.catalog.tables import Catalog
from tests.catalog.sample import adapter, details, merge, refused

COUNTS = {"adapters": 2, "merges": 1, "merge_sites": 2, "msus": 5}


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    catalog = Catalog(str(tmp_path / "catalog"))
    record_adapters(catalog, [adapter(), refused()])
    append_merge(catalog, merge(), *details())
    return catalog


@pytest.mark.parametrize("table", COUNTS)
def test_polars_reads(catalog: Catalog, table: str) -> None:
    polars = pytest.importorskip("polars")
    frame = polars.read_delta(catalog.table_uri(table))
    assert frame.height == COUNTS[table]
    assert frame.columns == TABLES[table].schema.names


@pytest.mark.parametrize("table", COUNTS)
def test_pyarrow_reads(catalog: Catalog, table: str) -> None:
    from deltalake import DeltaTable

    dataset = DeltaTable(catalog.table_uri(table)).to_pyarrow_dataset()
    assert dataset.count_rows() == COUNTS[table]
    assert dataset.schema.names == TABLES[table].schema.names
    assert dataset.schema.types == catalog.read(table).schema.types


@pytest.mark.parametrize("table", COUNTS)
def test_duckdb_reads(catalog: Catalog, table: str) -> None:
    import duckdb

    with duckdb.connect() as connection:
        connection.register("t", catalog.dataset(table))
        assert connection.sql("SELECT count(*) FROM t").fetchall() == [(COUNTS[table],)]
        assert connection.sql("FROM t").columns == TABLES[table].schema.names


def test_duckdb_filters_on_top_of_the_catalogs_own_filter(catalog: Catalog) -> None:
    import duckdb

    catalog.append("msus", details("leftover")[1])
    with duckdb.connect() as connection:
        connection.register("msus", catalog.dataset("msus"))
        query = "SELECT count(*) FROM msus WHERE rank_index = 0"
        assert connection.sql(query).fetchall() == [(3,)]
