"""Rows on their way into a table, checked against its columns before anything is written."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa

from lego_ray.catalog.schema import TABLES, Column, TableSpec
from lego_ray.errors import CatalogError

Row = Mapping[str, Any]


def table_spec(table: str) -> TableSpec:
    """Looks a table up by name.

    Raises:
        CatalogError: If the catalog has no such table.
    """
    if table not in TABLES:
        raise CatalogError(table, "the catalog has no such table", f"It has {', '.join(TABLES)}.")
    return TABLES[table]


def conform(table: str, rows: pa.Table | Sequence[Row]) -> pa.Table:
    """Makes rows fit a table's schema exactly, or says which column does not.

    Columns are put in order and widened or narrowed where no value changes; a nullable column that
    is absent is filled with nulls.

    Args:
        table: Name of the table.
        rows: A pyarrow table, or one mapping a row; map columns take a mapping each.

    Raises:
        CatalogError: If a column is unknown, missing, of another type, or null where it may not be.
    """
    spec = table_spec(table)
    if isinstance(rows, pa.Table):
        _check_names(spec, rows.column_names)
        columns = [_cast(spec, c, rows) for c in spec.columns]
    else:
        for names in {tuple(row) for row in rows}:
            _check_names(spec, names)
        columns = [_build(spec, c, rows) for c in spec.columns]
    for column, values in zip(spec.columns, columns, strict=True):
        if values.null_count and not column.nullable:
            raise _mismatch(spec, column, f"{values.null_count} values are null")
    return pa.table(columns, schema=spec.schema)


def check_types(table: str, stored: pa.Schema) -> None:
    """Passes a stored table's columns, which anyone may have written, where they can be read.

    Args:
        table: Name of the table.
        stored: Its columns. One that may be null may be missing: it is newer than the table.

    Raises:
        CatalogError: If one that may not be is missing, or the values of one cannot be of our type.
    """
    for column in table_spec(table).columns:
        if column.name not in stored.names:
            if not column.nullable:
                raise _mismatch(table_spec(table), column, "the column is missing")
        elif not _is_readable(stored.field(column.name).type, column.type):
            found = f"got {stored.field(column.name).type}"
            raise _mismatch(table_spec(table), column, found)


def as_read(table: str, stored: pa.Schema) -> pa.Schema:
    """The columns of a stored table in the types in which lego-ray reads them.

    Another program may have written int32 for int64, float32 for float64, or times without a zone,
    which count as UTC. Values are read in our type; one that it cannot hold is an error of the reader.

    Args:
        table: Name of the table.
        stored: Its columns.

    Returns:
        The same columns in the same order; those that others added as they are.

    Raises:
        CatalogError: As by `check_types`.
    """
    check_types(table, stored)
    ours = {column.name: column.type for column in table_spec(table).columns}
    fields = [
        field
        if pa.types.is_nested(field.type)
        else field.with_type(ours.get(field.name, field.type))
        for field in stored
    ]
    return pa.schema(fields, stored.metadata)


def check_addable(table: str, stored: pa.Schema) -> None:
    """Passes a stored table that rows can be added to; a column that others added is null in them.

    Args:
        table: Name of the table.
        stored: Its columns.

    Raises:
        CatalogError: If a column that others added may not be null, or one of ours is not as it must be.
    """
    read = as_read(table, stored)
    for column in table_spec(table).columns:
        if column.name in stored.names:
            found = stored.field(column.name).type
            if not _is_text(found) and found != read.field(column.name).type:
                raise CatalogError(
                    f"{table}.{column.name}",
                    f"another program wrote this column as {found}; expected {column.type}",
                    "The catalog can be read, and not written. Merge into another catalog.",
                )
    known = {column.name for column in table_spec(table).columns}
    for field in stored:
        if field.name not in known and not field.nullable:
            raise CatalogError(
                f"{table}.{field.name}",
                "another program added this column, and it may not be null",
                "Let it be null, or merge into another catalog.",
            )


def check_whole(table: str, rows: pa.Table) -> None:
    """Passes rows without nulls where there may be none.

    Args:
        table: Name of the table they are of.
        rows: Rows, some or all of its columns.

    Raises:
        CatalogError: Otherwise.
    """
    for column in table_spec(table).columns:
        if not column.nullable and column.name in rows.column_names:
            nulls = rows.column(column.name).null_count
            if nulls:
                raise _mismatch(table_spec(table), column, f"{nulls} values are null")


def _is_readable(stored: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether values of a stored type can be of another; what is within nested ones is not looked at."""
    if pa.types.is_nested(wanted):
        return bool(stored.id == wanted.id)
    if pa.types.is_string(wanted):
        return _is_text(stored)
    if pa.types.is_integer(wanted):
        return bool(pa.types.is_integer(stored))
    if pa.types.is_floating(wanted):
        return bool(pa.types.is_floating(stored) or pa.types.is_integer(stored))
    return bool(stored.id == wanted.id)


def _check_names(spec: TableSpec, names: Iterable[str]) -> None:
    given = list(names)
    known = [c.name for c in spec.columns]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"Did you mean {near[0]}?" if near else f"Its columns are {', '.join(known)}."
            raise CatalogError(f"{spec.name}.{name}", "the table has no such column", hint)
    for column in spec.columns:
        if column.name not in given and not column.nullable:
            raise _mismatch(spec, column, "the column is missing")
    if len(set(given)) != len(given):
        raise CatalogError(spec.name, "a column is given twice")


def _cast(spec: TableSpec, column: Column, rows: pa.Table) -> pa.ChunkedArray:
    if column.name not in rows.column_names:
        return pa.chunked_array([pa.nulls(rows.num_rows, column.type)])
    values = rows.column(column.name)
    if pa.types.is_timestamp(values.type) and values.type.tz is None:
        raise _mismatch(spec, column, f"{values.type} has no time zone")
    # A number or a boolean cast to a string "fits" in Arrow; here it is a caller's mistake.
    if pa.types.is_string(column.type) and not _is_text(values.type):
        raise _mismatch(spec, column, f"got {values.type}")
    try:
        return values.cast(column.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise _mismatch(spec, column, f"got {values.type} ({error})") from error


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return kind in (pa.string(), pa.large_string(), pa.string_view(), pa.null())


def _build(spec: TableSpec, column: Column, rows: Sequence[Row]) -> pa.Array:
    values = [row.get(column.name) for row in rows]
    if any(isinstance(v, datetime) and v.tzinfo is None for v in values):
        raise _mismatch(spec, column, "a time has no time zone")
    if pa.types.is_map(column.type):
        values = [sorted(v.items()) if isinstance(v, Mapping) else v for v in values]
    elif pa.types.is_list(column.type):
        values = [list(v) if isinstance(v, tuple) else v for v in values]
    try:
        return pa.array(values, column.type)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise _mismatch(spec, column, str(error)) from error


def _mismatch(spec: TableSpec, column: Column, found: str) -> CatalogError:
    null = "" if column.nullable else ", never null"
    return CatalogError(f"{spec.name}.{column.name}", f"{found}; expected {column.type}{null}")
