"""Adapters by an SQL condition over the columns of `adapters`, by DuckDB, shut in."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pyarrow as pa

from lego_ray.catalog.failures import LONGEST
from lego_ray.catalog.query import closed_connection, reason_of
from lego_ray.errors import QueryError

if TYPE_CHECKING:
    import duckdb

# A condition looks at some thousands of rows.
LONGEST_SECONDS = 60
TAGS_LISTED = 50


def choose(adapters: pa.Table, where: str) -> list[int]:
    """The rows of a table like `adapters` for which a condition holds.

    Beside the catalog's columns there are `name`, the last part of `uri`, and `rank`, another name of
    `rank_max`. `tags` is a struct with a field for each key that any of the adapters has, so that
    `tags.task = 'summarise'` reads as it is meant.

    Args:
        adapters: With the catalog's schema.
        where: What would follow WHERE.

    Returns:
        Positions, in order.

    Raises:
        QueryError: If it is no condition DuckDB can decide, or not in `LONGEST_SECONDS`.
    """
    import duckdb

    if not where.isascii() and where.encode("utf-8", "replace").decode() != where:
        raise QueryError("where", "it is no text that UTF-8 can write", "Type it anew.")
    keys = _keys(adapters)
    asked = where.casefold()
    # A struct of all keys would have a cell for every adapter and every key of any of them.
    spoken_of = [key for key in keys if key.casefold() in asked]
    columns = {name: adapters[name] for name in adapters.column_names}
    # A struct needs a field; in a map, a key that no adapter has would be null, not an error.
    columns["tags"] = _struct(adapters, spoken_of or ["-"])
    columns["rank"] = adapters["rank_max"]
    columns["name"] = pa.array(
        [uri.rstrip("/").rsplit("/", 1)[-1] for uri in adapters["uri"].to_pylist()], pa.string()
    )
    columns["position"] = pa.array(range(adapters.num_rows), pa.int64())
    with closed_connection({"adapters": pa.table(columns)}) as connection:
        try:
            # An expression by DuckDB's own grammar: it cannot close a bracket and go on.
            rows = connection.table("adapters").filter(duckdb.SQLExpression(where))
            with _interrupting(connection):
                found = rows.project("position").order("position").to_arrow_table()
        except duckdb.Error as error:
            there = f"Columns: {', '.join(sorted(columns.keys() - {'position'}))}. "
            more = ", ..." if len(keys) > TAGS_LISTED else ""
            listed = ", ".join(keys[:TAGS_LISTED]) + more
            tags = f"Tags: {listed}." if keys else "No adapter has tags."
            reason = reason_of(error)
            if isinstance(error, duckdb.InterruptException):
                reason = f"it takes longer than {LONGEST_SECONDS} seconds"
            raise QueryError(
                "where", f"{where[:LONGEST]!r} cannot be decided: {reason}", there + tags
            ) from error
    return [int(position) for position in found["position"].to_pylist()]


@contextmanager
def _interrupting(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Stops a query of the block that takes too long: a recipe may come from anyone."""
    timer = threading.Timer(LONGEST_SECONDS, connection.interrupt)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _keys(adapters: pa.Table) -> list[str]:
    """Every key of a tag, once; struct fields do not tell upper case from lower."""
    found: dict[str, str] = {}
    for tags in adapters["tags"].to_pylist():
        for key, _ in tags or ():
            found.setdefault(key.casefold(), key)
    return sorted(found.values())


def _struct(adapters: pa.Table, keys: list[str]) -> pa.Array:
    rows = [
        {key.casefold(): value for key, value in tags or ()}
        for tags in adapters["tags"].to_pylist()
    ]
    values = [pa.array([row.get(key.casefold()) for row in rows], pa.string()) for key in keys]
    return pa.StructArray.from_arrays(values, names=keys)
