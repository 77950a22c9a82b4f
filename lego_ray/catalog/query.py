"""SQL over the catalog, by DuckDB, shut in: it reads the tables and nothing else."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lego_ray.catalog.apart import Limits, run_apart
from lego_ray.catalog.damage import damaged_files
from lego_ray.catalog.failures import (
    DAMAGE_HINT,
    LONGEST,
    is_broken_off,
    is_damaged,
    is_gone,
    read_through,
    reopen,
    translate,
)
from lego_ray.catalog.schema import TABLES
from lego_ray.catalog.tables import Catalog
from lego_ray.errors import CatalogError, QueryError

if TYPE_CHECKING:
    import duckdb

# Set before the database is opened: these cannot be taken back by a query.
_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    # Otherwise a name that is not a table is looked up among Python's variables.
    "python_enable_replacements": "false",
    # A query too large for memory fails, rather than spill into the working directory.
    "temp_directory": "",
    # As much as a worker of a merge takes unless told otherwise.
    "memory_limit": "4GiB",
}
# Most bytes of an answer, which DuckDB's limit leaves out.
LARGEST_ANSWER = 1 << 30
# Most bytes of the whole process that answers: what one function of a query allocates is in no limit of
# DuckDB's.
PROCESS_MEMORY = (4 << 30) + LARGEST_ANSWER
DEFAULT_SECONDS = 60.0
_BATCH_ROWS = 100_000


def sql(catalog: Catalog, query: str, *, seconds: float | None = DEFAULT_SECONDS) -> pa.Table:
    """Answers one SQL query in a separate process, which ends at its limits or with this call.

    Args:
        catalog: What to ask.
        query: As for `answer`.
        seconds: The longest it may take; None for no limit.

    Returns:
        The rows.

    Raises:
        CatalogNotFound: If the catalog has no table yet.
        QueryError: As `answer` does, or if it takes longer or needs more than `PROCESS_MEMORY` bytes.
    """
    return run_apart(Limits("query", seconds, PROCESS_MEMORY), answer, catalog, query)


def answer(catalog: Catalog, query: str) -> pa.Table:
    """Answers one SQL query over the catalog's tables, in this process.

    Tables go by their names; those not written to yet are empty. All are of one moment, near enough:
    `merges` is read first, so no detail of a merge it lists is missing. Files, other databases,
    extensions and settings are out of a query's reach.

    Args:
        catalog: What to ask.
        query: One SELECT (with CTEs if need be), DESCRIBE, SUMMARIZE or SHOW statement.

    Returns:
        The rows.

    Raises:
        CatalogNotFound: If the catalog has no table yet.
        QueryError: If the query is not one such statement, DuckDB cannot answer it, or not in 4 GiB of
            memory, or the answer is larger than `LARGEST_ANSWER`.
        CatalogError: If a file of a table is damaged.
    """
    import duckdb

    try:
        query.encode()
    except UnicodeError:
        problem = "it is not text that UTF-8 can write"
        raise QueryError("query", problem, "Type it again.") from None
    tables = catalog.required_tables()

    def answered(rows: Mapping[str, Any]) -> pa.Table:
        with closed_connection(rows) as connection:
            try:
                statement = _single_select(connection, query)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    return _fetch(connection.sql(statement))
            except duckdb.Error as error:
                # How DuckDB says that a table it was given could not be read to its end.
                of_table = isinstance(error, duckdb.InvalidInputException)
                if of_table and (is_broken_off(str(error)) or is_gone(error)):
                    raise translate(catalog.uri, error) from error
                if of_table and is_damaged(str(error)):
                    _check_files(catalog, error)
                raise QueryError(
                    "query", reason_of(error), f"Tables here: {', '.join(TABLES)}."
                ) from error

    def opened() -> pa.Table:
        # One that nothing was written to yet is empty, not unknown.
        rows = {
            table: catalog.dataset(table) if table in tables else spec.schema.empty_table()
            for table, spec in TABLES.items()
        }
        return read_through(catalog.uri, lambda: answered(rows))

    return reopen(opened)


def _check_files(catalog: Catalog, error: Exception) -> None:
    """Raises what is damaged, if anything is; the words of the error may be the query's own."""
    for table, file, problem in damaged_files(catalog):
        raise CatalogError(f"{catalog.table_uri(table)}/{file}", problem, DAMAGE_HINT) from error


def _fetch(found: duckdb.DuckDBPyRelation) -> pa.Table:
    batches: list[pa.RecordBatch] = []
    n_bytes = 0
    with found.fetch_record_batch(_BATCH_ROWS) as reader:
        for batch in reader:
            batches.append(batch)
            n_bytes += batch.nbytes
            if n_bytes > LARGEST_ANSWER:
                raise QueryError(
                    "query",
                    f"its answer is larger than {LARGEST_ANSWER >> 20} MiB",
                    "Ask for fewer rows or columns, or for aggregates.",
                )
        return pa.Table.from_batches(batches, reader.schema)


@contextmanager
def closed_connection(tables: Mapping[str, Any]) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB in memory that reaches these tables and nothing else, by no statement.

    Args:
        tables: Arrow tables or datasets, by name.
    """
    import duckdb

    with duckdb.connect(":memory:", config=_CONFIG) as connection:
        for name, rows in tables.items():
            connection.register(name, rows)
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        yield connection


def _single_select(connection: duckdb.DuckDBPyConnection, query: str) -> str:
    import duckdb

    statements = connection.extract_statements(query)
    if len(statements) != 1:
        raise QueryError("query", f"it has {len(statements)} statements; expected one SELECT")
    # DESCRIBE, SUMMARIZE and SHOW are SELECT to DuckDB; SELECT cannot write, so the list is whole.
    if statements[0].type != duckdb.StatementType.SELECT:
        kind = statements[0].type.name.replace("_", " ")
        raise QueryError("query", f"it is {kind}; expected SELECT, DESCRIBE, SUMMARIZE or SHOW")
    return str(statements[0].query)


def reason_of(error: Exception) -> str:
    """The first line of what DuckDB says, without its guesses."""
    # DuckDB's guesses at a missing name include its own internal tables, which would mislead.
    lines = [line for line in str(error).splitlines() if line.strip()]
    first = lines[0] if lines else type(error).__name__
    return first.partition("Did you mean")[0].strip().rstrip(".!")[:LONGEST]
