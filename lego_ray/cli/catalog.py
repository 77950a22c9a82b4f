"""`lego-ray catalog`: questions to a catalog."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from lego_ray.cli import options
from lego_ray.cli.printing import print_fields, print_json, print_table

if TYPE_CHECKING:
    import pyarrow as pa

# People read this many rows; scripts take --json and get them all.
SHOWN = 100


@click.group()
def catalog() -> None:
    """Ask a catalog what was scanned and merged."""


@catalog.command()
@click.argument("query")
@options.required_catalog
@options.as_json
def sql(query: str, catalog: str, as_json: bool) -> None:
    """Answer one SELECT over the tables adapters, merges, merge_sites and msus.

    \b
    Example:
      lego-ray catalog sql "SELECT name, rank FROM merges" --catalog ./catalog
    """
    from lego_ray import catalog as calls

    _print_rows(calls.sql(catalog, query), as_json)


@catalog.command("list")
@options.required_catalog
@options.as_json
def list_(catalog: str, as_json: bool) -> None:
    """List the merges, newest first."""
    from lego_ray import catalog as calls

    table = calls.list_merges(catalog)
    shown = ["name", "version", "method", "rank", "created_at", "seconds", "output_uri", "merge_id"]
    _print_rows(table if as_json else table.select(shown), as_json)


@catalog.command()
@click.argument("merge")
@options.required_catalog
@options.as_json
def show(merge: str, catalog: str, as_json: bool) -> None:
    """Show one merge, by its name or merge_id, and its sites."""
    from lego_ray import catalog as calls

    detail = calls.show(catalog, merge)
    if as_json:
        sites = [_json_row(row) for row in detail.sites.to_pylist()]
        merged = _json_row(detail.merge)
        print_json({"merge": merged, "summary": detail.summary(), "sites": sites})
        return
    print_fields({**detail.merge, **detail.summary()})
    click.echo()
    _print_rows(detail.sites.drop_columns(["merge_id"]), as_json)


@catalog.command()
@click.argument("merge")
@options.required_catalog
@options.as_json
def lineage(merge: str, catalog: str, as_json: bool) -> None:
    """Say which adapters a merge is made of, and how much of it is each one's."""
    from lego_ray import catalog as calls

    _print_rows(calls.lineage(catalog, merge), as_json)


def _print_rows(table: pa.Table, as_json: bool) -> None:
    if as_json:
        rows = [_json_row(row) for row in table.to_pylist()]
        print_json({"columns": table.column_names, "rows": rows})
        return
    rows = table.slice(0, SHOWN).to_pylist()
    print_table(table.column_names, [tuple(row.values()) for row in rows])
    if table.num_rows > SHOWN:
        click.echo(f"... {table.num_rows - SHOWN} more rows; --json prints them all")


def _json_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose maps are objects; Arrow gives them as pairs."""
    pairs = [k for k, v in row.items() if isinstance(v, list) and v and isinstance(v[0], tuple)]
    return {k: dict(v) if k in pairs else v for k, v in row.items()}
