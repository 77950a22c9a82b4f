"""Adapters by an SQL condition over the columns of `adapters`, by DuckDB, shut in."""

from __future__ import annotations

import pyarrow as pa

from lego_ray.catalog.query import closed_connection, reason_of
from lego_ray.errors import QueryError


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
        QueryError: If it is no condition DuckDB can decide.
    """
    import duckdb

    keys = _keys(adapters)
    columns = {name: adapters[name] for name in adapters.column_names}
    # A struct needs a field; in a map, a key that no adapter has would be null, not an error.
    columns["tags"] = _struct(adapters, keys or [""])
    columns["rank"] = adapters["rank_max"]
    columns["name"] = pa.array(
        [uri.rstrip("/").rsplit("/", 1)[-1] for uri in adapters["uri"].to_pylist()], pa.string()
    )
    columns["position"] = pa.array(range(adapters.num_rows), pa.int64())
    with closed_connection({"adapters": pa.table(columns)}) as connection:
        try:
            asked = f"SELECT position FROM adapters WHERE ({where}\n) ORDER BY position"
            if len(connection.extract_statements(asked)) != 1:
                raise QueryError("where", f"{where!r} is more than one condition")
            found = connection.sql(asked).to_arrow_table()
        except duckdb.Error as error:
            there = f"Columns: {', '.join(sorted(columns.keys() - {'position'}))}. "
            tags = f"Tags: {', '.join(keys)}." if keys else "No adapter has tags."
            raise QueryError(
                "where", f"{where!r} cannot be decided: {reason_of(error)}", there + tags
            ) from error
    return [int(position) for position in found["position"].to_pylist()]


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
