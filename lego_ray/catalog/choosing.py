"""Adapters by an SQL condition over the columns of `adapters`, by DuckDB, shut in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches

import pyarrow as pa

from lego_ray.catalog.apart import Limits, run_apart
from lego_ray.catalog.failures import LONGEST
from lego_ray.catalog.query import PROCESS_MEMORY, closed_connection, reason_of
from lego_ray.errors import QueryError

# A condition looks at some thousands of rows.
LONGEST_SECONDS = 60
TAGS_LISTED = 50
_TAG = re.compile(r"""\btags\s*(?:\.\s*"?(\w+)"?|\[\s*'([^']+)'\s*\])""", re.IGNORECASE)


def choose(adapters: pa.Table, where: str) -> list[int]:
    """Finds the rows of a table like `adapters` for which a condition holds, in a separate process.

    A recipe may come from anyone, so its conditions have a time limit and a memory limit that hold.

    Args:
        adapters: As for `decide`.
        where: As for `decide`.

    Returns:
        Positions, in order.

    Raises:
        QueryError: As `decide` does, or if it takes longer than `LONGEST_SECONDS` or needs more than
            `PROCESS_MEMORY` bytes.
    """
    return run_apart(Limits("where", LONGEST_SECONDS, PROCESS_MEMORY), decide, adapters, where)


def decide(adapters: pa.Table, where: str) -> list[int]:
    """Finds the rows of a table like `adapters` for which a condition holds, in this process.

    Beside the catalog's columns there are `name`, the last part of `uri`, and `rank`, another name of
    `rank_max`. `tags` is a struct with a field for each key that any of the adapters has, so that
    `tags.task = 'summarize'` reads as it is meant.

    Args:
        adapters: With the catalog's schema.
        where: What would follow WHERE.

    Returns:
        Positions, in order.

    Raises:
        QueryError: If it is not a condition that DuckDB can decide.
    """
    import duckdb

    if not where.isascii() and where.encode("utf-8", "replace").decode() != where:
        raise QueryError("where", "it is not text that UTF-8 can write", "Type it again.")
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
            found = rows.project("position").order("position").to_arrow_table()
        except duckdb.Error as error:
            if missing := _missing_tag(where, keys):
                raise QueryError("where", *missing) from error
            there = f"Columns: {', '.join(sorted(columns.keys() - {'position'}))}. "
            more = ", ..." if len(keys) > TAGS_LISTED else ""
            listed = ", ".join(keys[:TAGS_LISTED]) + more
            tags = f"Tags: {listed}." if keys else "No adapter has tags."
            problem = f"{where[:LONGEST]!r} cannot be decided: {reason_of(error)}"
            raise QueryError("where", problem, there + tags) from error
    return [int(position) for position in found["position"].to_pylist()]


def _missing_tag(where: str, keys: Sequence[str]) -> tuple[str, str] | None:
    """What is wrong and what to do where a condition asks for a tag that no adapter has, or None."""
    known = {key.casefold() for key in keys}
    asked = [a or b for a, b in _TAG.findall(where) if (a or b).casefold() not in known]
    if not asked:
        return None
    if not keys:
        return (
            f"it asks for the tag {asked[0]}, and no adapter has tags",
            "No adapter has tags: give them with `tags: FILE.csv` or `tags_from_folders: task/language` "
            "in the recipe file, `lego-ray scan --tags`, or in the adapters' model cards.",
        )
    near = get_close_matches(asked[0], keys, 1)
    more = ", ..." if len(keys) > TAGS_LISTED else ""
    listed = f"Tags: {', '.join(keys[:TAGS_LISTED])}{more}."
    hint = f"Did you mean {near[0]}? {listed}" if near else listed
    return f"it asks for the tag {asked[0]}, which no adapter has", hint


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
