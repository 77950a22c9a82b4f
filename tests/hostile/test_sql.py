"""SQL over a catalog and conditions of recipes reach the catalog's tables and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from lego_ray.catalog import choosing, query
from lego_ray.catalog.choosing import choose, decide
from lego_ray.catalog.merges import append_merge
from lego_ray.catalog.query import answer, sql
from lego_ray.catalog.tables import Catalog
from lego_ray.errors import QueryError
from tests.catalog.sample import details, merge
from tests.catalog.test_choosing import ZOO
from tests.hostile.held import room_for, tree


@pytest.fixture
def place(tmp_path: Path) -> Path:
    append_merge(Catalog(str(tmp_path / "catalog")), merge(), *details())
    (tmp_path / "secret.csv").write_text("password\nhunter2\n")
    (tmp_path / "secret.json").write_text('{"password": "hunter2"}')
    return tmp_path


# Ways to a file that a SELECT has, as a table and as a value.
TABLES = [
    "'{file}'",
    "'file://{file}'",
    "'{folder}/*.csv'",
    "read_csv('{file}')",
    "read_csv_auto('{file}')",
    "read_json('{file}')",
    "read_json_auto('{file}')",
    "read_json_objects('{file}')",
    "read_ndjson('{file}')",
    "read_ndjson_objects('{file}')",
    "read_text('{file}')",
    "read_blob('{file}')",
    "read_parquet('{parquet}')",
    "parquet_scan('{parquet}')",
    "parquet_metadata('{parquet}')",
    "parquet_schema('{parquet}')",
    "parquet_file_metadata('{parquet}')",
    "parquet_kv_metadata('{parquet}')",
    "parquet_bloom_probe('{parquet}', 'a', 1)",
    "sniff_csv('{file}')",
    "glob('{folder}/*')",
    "read_duckdb('{file}')",
    "sqlite_scan('{file}', 'x')",
    "delta_scan('{folder}/catalog/merges')",
    "iceberg_scan('{folder}')",
    "query_table('{file}')",
    "query_table(['{file}'])",
    "query('FROM read_text(''{file}'')')",
    "query('COPY (SELECT 1) TO ''{folder}/out''')",
    "arrow_scan(0, 0, 0)",
    "pandas_scan(0)",
    "python_map_function()",
    "load_aws_credentials()",
    "pragma_import_database('{folder}')",
    "import_database('{folder}')",
    "enable_logging(storage='file')",
    "force_checkpoint()",
    "duckdb_secrets()",
]
VALUES = [
    "getenv('HOME')",
    "(SELECT content FROM read_text('{file}'))",
    "load('{file}')",
    "read_text('{file}')",
    "system('touch {folder}/out')",
    "write_file('{folder}/out', 'x')",
    "write_blob('{folder}/out', 'x')",
]
WHOLE = [
    "SUMMARIZE '{file}'",
    "DESCRIBE '{file}'",
    "DESCRIBE SELECT * FROM '{file}'",
    "PIVOT '{file}' ON password",
    "UNPIVOT '{file}' ON password",
    "TABLE '{file}'",
    "FROM '{file}' SELECT 1",
    "COPY merges TO '/dev/stdout'",
    "COPY merges FROM '{file}'",
    "ATTACH ':memory:' AS other",
    "USE memory",
    "SET VARIABLE x = 1",
    "RESET lock_configuration",
    "SET memory_limit = '1TB'",
    "SET GLOBAL enable_external_access = true",
    "PRAGMA memory_limit = '1TB'",
    "IMPORT DATABASE '{folder}'",
    "CREATE MACRO f() AS 1",
    "CREATE TEMP TABLE x (a INT)",
    "CREATE FUNCTION f() AS TABLE FROM read_text('{file}')",
    "UPDATE merges SET name = 'x'",
    "MERGE INTO merges USING merges AS m ON true WHEN MATCHED THEN DELETE",
    "TRUNCATE merges",
    "EXECUTE p",
    "EXPLAIN SELECT * FROM '{file}'",
    "INSTALL 'x' FROM 'http://localhost:1'",
    "SELECT 1; ; COPY (SELECT 1) TO '{folder}/out'",
]


def filled(text: str, place: Path) -> str:
    parquet = next((place / "catalog" / "adapters").glob("*.parquet"), None) or next(
        place.rglob("*.parquet")
    )
    return (
        text.replace("{file}", str(place / "secret.csv"))
        .replace("{folder}", str(place))
        .replace("{parquet}", str(parquet))
    )


@pytest.mark.parametrize(
    "text",
    [
        *(f"SELECT * FROM {table}" for table in TABLES),
        *(f"SELECT {value}" for value in VALUES),
        *(f"WITH x AS MATERIALIZED (SELECT {value} AS v) FROM x" for value in VALUES),
        *WHOLE,
    ],
)
def test_a_query_reaches_no_file_and_writes_none(
    text: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    before = tree(place)
    with pytest.raises(QueryError) as caught:
        answer(Catalog(str(place / "catalog")), filled(text, place))
    assert caught.value.exit_code == 2
    assert tree(place) == before


@pytest.mark.parametrize(
    "where",
    [
        *(f"EXISTS (SELECT * FROM {table})" for table in TABLES),
        *(f"{value} IS NULL" for value in VALUES),
        "true) UNION ALL (SELECT 99999",
        "true) UNION ALL (SELECT NULL",
        "true; COPY adapters TO '{folder}/out'",
        "true LIMIT 1",
    ],
)
def test_a_condition_reaches_no_file_and_adds_no_row(where: str, place: Path) -> None:
    before = tree(place)
    with pytest.raises(QueryError):
        decide(ZOO, filled(where, place))
    assert tree(place) == before


def test_no_setting_tells_where_things_are_or_what_they_are_opened_with(place: Path) -> None:
    catalog = Catalog(str(place / "catalog"), {"AWS_SECRET_ACCESS_KEY": "hunter2"})
    settings = answer(catalog, "SELECT name, value FROM duckdb_settings()").to_pylist()
    assert "hunter2" not in str(settings)
    assert {s["name"]: s["value"] for s in settings}["lock_configuration"] == "true"


@pytest.mark.timeout(60)
def test_an_answer_has_a_largest_size(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "LARGEST_ANSWER", 1 << 24)
    catalog = Catalog(str(place / "catalog"))
    assert answer(catalog, "SELECT * FROM range(1000)").num_rows == 1000
    with room_for(4 << 30), pytest.raises(QueryError, match="larger than 16 MiB"):
        answer(catalog, "SELECT * FROM range(100000000000)")


ENDLESS = "SELECT count(*) FROM range(1000000000000) a, range(1000) b"


@pytest.mark.timeout(120)
def test_a_query_that_never_ends_is_stopped(place: Path) -> None:
    catalog = Catalog(str(place / "catalog"))
    with pytest.raises(QueryError, match="takes longer than 3 seconds"):
        sql(catalog, ENDLESS, seconds=3)
    assert not _children()


@pytest.mark.timeout(120)
def test_a_condition_that_never_ends_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "LONGEST_SECONDS", 3)
    for endless in (
        f"({ENDLESS}) > rank",
        "EXISTS (WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) "
        "SELECT max(n) AS m FROM t HAVING m < 0)",
    ):
        with pytest.raises(QueryError, match="takes longer than 3 seconds"):
            choose(ZOO, endless)
    assert not _children()


# What one function of a query may allocate is in no limit of DuckDB's.
LARGE = [
    "repeat('x', 3000000000)",
    "length(repeat('x', 3000000000))",
    "list_sum(range(400000000))",
    "printf('%1000000000d', 1)",
    "(SELECT string_agg(repeat('x', 1000000), '') FROM range(6000))",
    # Grows what it makes piece by piece, in long ones: short ones take half a minute to as much.
    "length(replace(repeat('x', 100000000), 'x', repeat('y', 100)))",
]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("value", LARGE)
def test_a_query_that_needs_too_much_memory_is_refused(
    value: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query, "PROCESS_MEMORY", 2 << 30)
    with pytest.raises(QueryError, match=r"(?i)memory"):
        sql(Catalog(str(place / "catalog")), f"SELECT {value} AS v", seconds=None)


@pytest.mark.timeout(180)
def test_a_condition_that_needs_too_much_memory_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(choosing, "PROCESS_MEMORY", 2 << 30)
    with pytest.raises(QueryError, match=r"(?i)memory"):
        choose(ZOO, "length(repeat('x', 3000000000)) > rank")


def _children() -> list[int]:
    """Processes that this one started and that still run."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        try:
            found += [int(pid) for pid in (task / "children").read_text().split()]
        except OSError:  # the thread has ended
            continue
    return [pid for pid in found if b"lego_ray.catalog.apart" in _words(pid)]


def _words(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # the process has ended
        return b""
