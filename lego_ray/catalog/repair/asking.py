"""Questions about the rows of one table, of which there may be more than fit into memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lego_ray.catalog.failures import read_through, translate

# Beyond this DuckDB goes on in a folder on disk.
_MEMORY = "1GB"


def ask(uri: str, tables: Mapping[str, Any], query: str) -> list[tuple[Any, ...]]:
    """Answers a query of ours.

    Args:
        uri: The table's, for errors.
        tables: Arrow tables or datasets, by name.
        query: The query.

    Raises:
        CatalogError: If the rows cannot be read.
        StorageError: If the store could not be reached or refused access.
    """
    import tempfile

    import duckdb

    def asked() -> list[tuple[Any, ...]]:
        with tempfile.TemporaryDirectory(prefix="lego-ray-") as spill:
            config: dict[str, str | bool | int | float | list[str]] = {
                "memory_limit": _MEMORY,
                "temp_directory": spill,
            }
            with duckdb.connect(":memory:", config=config) as connection:
                for name, rows in tables.items():
                    connection.register(name, rows)
                try:
                    return connection.execute(query).fetchall()
                except duckdb.Error as error:  # such as a file of the table that is not there
                    raise translate(uri, error) from error

    return read_through(uri, asked)
