"""SQL answers from the tables, and reaches nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from lego_ray.catalog.merges import append_merge
from lego_ray.catalog.query import answer as sql
from lego_ray.catalog.tables import Catalog
from lego_ray.errors import CatalogNotFound, QueryError
from tests.catalog.sample import NOW, details, merge


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    catalog = Catalog(str(tmp_path / "catalog"))
    append_merge(catalog, merge(), *details())
    return catalog


def test_tables_join(catalog: Catalog) -> None:
    query = """
        WITH given AS (SELECT merge_id, adapter_id, count(*) AS n FROM msus GROUP BY ALL)
        SELECT name, adapter_id[1] AS adapter, n FROM given JOIN merges USING (merge_id)
        ORDER BY adapter
    """
    assert sql(catalog, query).to_pylist() == [
        {"name": "support", "adapter": "a", "n": 4},
        {"name": "support", "adapter": "b", "n": 1},
    ]


def test_values_keep_their_types(catalog: Catalog) -> None:
    row = sql(catalog, "SELECT created_at, versions, adapter_ids, seed FROM merges").to_pylist()[0]
    assert row["created_at"] == NOW
    assert dict(row["versions"]) == merge()["versions"]
    assert row["adapter_ids"] == merge()["adapter_ids"]
    assert row["seed"] == 2**62
    assert sql(catalog, "SELECT versions['torch'] FROM merges")[0].to_pylist() == ["2.7.0"]


@pytest.mark.parametrize(
    "query",
    [
        "FROM merges",
        "DESCRIBE merges",
        "SHOW TABLES",
        "SUMMARIZE msus",
        "SELECT 1;",
        "-- note\nSELECT 1",
    ],
)
def test_reading_statements_are_answered(catalog: Catalog, query: str) -> None:
    assert sql(catalog, query).num_rows > 0


FORBIDDEN = [
    "COPY merges TO '{out}'",
    "COPY (SELECT 1) TO '{out}' (FORMAT parquet)",
    "EXPORT DATABASE '{out}'",
    "SELECT * FROM read_csv('{file}')",
    "SELECT * FROM read_text('{file}')",
    "SELECT * FROM read_blob('{file}')",
    "SELECT * FROM read_parquet('{file}')",
    "SELECT * FROM sniff_csv('{file}')",
    "SELECT * FROM glob('{folder}/*')",
    "SELECT * FROM '{file}'",
    "SELECT getenv('HOME')",
    "SELECT * FROM query('COPY (SELECT 1) TO ''{out}''')",
    "ATTACH '{out}'",
    "ATTACH '{out}' AS other (TYPE sqlite)",
    "INSTALL httpfs",
    "LOAD httpfs",
    "LOAD '{file}'",
    "PRAGMA database_list",
    "PRAGMA enable_profiling",
    "SET enable_external_access = true",
    "SET temp_directory = '{folder}'",
    "CALL pragma_version()",
    "SELECT 1; SELECT 2",
    "SELECT 1; COPY (SELECT 1) TO '{out}'",
    "CREATE TABLE x AS SELECT 1",
    "CREATE SECRET (TYPE s3)",
    "INSERT INTO merges VALUES (1)",
    "DELETE FROM merges",
    "DROP VIEW merges",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{out}'",
    "PREPARE p AS SELECT 1",
    "BEGIN",
    "CHECKPOINT",
    "VACUUM",
    "WITH x AS (INSERT INTO merges VALUES (1) RETURNING *) SELECT * FROM x",
    "",
    ";",
    "-- nothing",
    "SELEKT 1",
]


@pytest.mark.parametrize("query", FORBIDDEN)
def test_anything_else_is_refused_and_leaves_no_trace(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("password\nhunter2\n")
    workplace = tmp_path / "cwd"
    workplace.mkdir()
    monkeypatch.chdir(workplace)
    before = set(tmp_path.rglob("*"))
    filled = query.format(out=tmp_path / "out", file=secret, folder=tmp_path)
    with pytest.raises(QueryError):
        sql(catalog, filled)
    assert set(tmp_path.rglob("*")) == before


def test_variables_of_the_program_are_out_of_reach(catalog: Catalog) -> None:
    import pyarrow as pa

    private = pa.table({"x": [1]})
    with pytest.raises(QueryError):
        sql(catalog, "SELECT * FROM private")
    del private


def test_a_mistyped_name_lists_the_tables(catalog: Catalog) -> None:
    with pytest.raises(QueryError) as caught:
        sql(catalog, "SELECT * FROM merge")
    assert "merge does not exist" in caught.value.problem
    assert "pg_" not in str(caught.value)
    assert caught.value.hint.endswith("merges, merge_sites, msus, groups, trials.")


def test_a_mistyped_column_is_named(catalog: Catalog) -> None:
    with pytest.raises(QueryError, match="nmae"):
        sql(catalog, "SELECT nmae FROM merges")


def test_words_of_a_broken_connection_in_a_query_are_the_querys(catalog: Catalog) -> None:
    with pytest.raises(QueryError, match="response body"):
        sql(catalog, 'SELECT "response body" FROM merges')


def test_an_empty_place_is_not_a_catalog(tmp_path: Path) -> None:
    with pytest.raises(CatalogNotFound):
        sql(Catalog(str(tmp_path)), "SELECT 1")


def test_a_table_nothing_was_written_to_is_empty(tmp_path: Path) -> None:
    """A merge by a method that does not cluster has no MSUs to record."""
    fresh = Catalog(str(tmp_path))
    sites, _ = details()
    append_merge(fresh, merge(), sites, [])
    assert sql(fresh, "SELECT * FROM msus").num_rows == 0
    assert sql(fresh, "SELECT count(*) AS n FROM merges")["n"].to_pylist() == [1]
