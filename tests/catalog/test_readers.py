"""The tables as other tools read them, on disk and on S3: by their URIs, knowing nothing of lego-ray."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from lego_ray.catalog.adapters import record_adapters
from lego_ray.catalog.merges import append_merge
from lego_ray.catalog.reading import native_filesystem
from lego_ray.catalog.schema import TABLES
from lego_ray.catalog.tables import Catalog
from lego_ray.catalog.upkeep.compact import compact
from tests.catalog.sample import adapter, details, merge, refused
from tests.catalog.stores import STORES, fresh_catalog

COUNTS = {"adapters": 2, "merges": 1, "merge_sites": 2, "msus": 5}
# Arrow has two of each; which one a reader takes is its own choice.
LARGE = {pa.large_string(): pa.string()}


@pytest.fixture(params=STORES)
def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> Catalog:
    catalog = fresh_catalog(request, tmp_path)
    record_adapters(catalog, [adapter(), refused()])
    append_merge(catalog, merge(), *details())
    compact(catalog, "adapters")  # Readers start at its checkpoint.
    return catalog


def test_polars_reads_all_tables(catalog: Catalog) -> None:
    import polars

    for table, rows in COUNTS.items():
        frame = polars.read_delta(
            catalog.table_uri(table), storage_options=dict(catalog.storage_options)
        )
        assert frame.height == rows
        assert frame.columns == TABLES[table].schema.names
        if table == "merges":
            [row] = frame.to_dicts()
            assert row["licenses"] == merge()["licenses"]
            assert row["created_at"] == merge()["created_at"]


def test_pyarrow_reads_all_tables(catalog: Catalog) -> None:
    from deltalake import DeltaTable

    for table, rows in COUNTS.items():
        handle = DeltaTable(catalog.table_uri(table), storage_options=dict(catalog.storage_options))
        dataset = handle.to_pyarrow_dataset()
        assert dataset.count_rows() == rows
        assert dataset.schema.names == TABLES[table].schema.names
        types = [LARGE.get(kind, kind) for kind in dataset.schema.types]
        assert types == catalog.read(table).schema.types == TABLES[table].schema.types


def test_pyarrow_reads_the_files_of_all_tables(catalog: Catalog) -> None:
    """With the log for the list of files, and nothing but Parquet for the rest."""
    import pyarrow.parquet as pq

    for table, rows in COUNTS.items():
        files = native_filesystem(catalog.table_uri(table), catalog.storage_options)
        names = catalog.open(table).get_add_actions().column("path").to_pylist()
        assert sum(pq.read_table(name, filesystem=files).num_rows for name in names) == rows


def test_duckdb_reads_all_tables(catalog: Catalog) -> None:
    import duckdb
    from deltalake import DeltaTable

    with duckdb.connect() as connection:
        for table, rows in COUNTS.items():
            handle = DeltaTable(
                catalog.table_uri(table), storage_options=dict(catalog.storage_options)
            )
            connection.register(table, handle.to_pyarrow_dataset())
            assert connection.sql(f"SELECT count(*) FROM {table}").fetchall() == [(rows,)]
            assert connection.sql(f"FROM {table}").columns == TABLES[table].schema.names
        query = """
            SELECT name, list_contains(licenses, 'mit'), versions['torch'], count(*), sum(weight)
            FROM msus JOIN merges USING (merge_id) GROUP BY ALL
        """
        assert connection.sql(query).fetchall() == [("support", True, "2.7.0", 5, 2.5)]


def test_duckdb_filters_on_top_of_the_catalogs_own_filter(tmp_path: Path) -> None:
    import duckdb

    catalog = Catalog(str(tmp_path))
    append_merge(catalog, merge(), *details())
    catalog.append("msus", details("leftover")[1])
    with duckdb.connect() as connection:
        connection.register("msus", catalog.dataset("msus"))
        query = "SELECT count(*) FROM msus WHERE rank_index = 0"
        assert connection.sql(query).fetchall() == [(3,)]
