"""`lego-ray catalog`: questions to a catalog. Its upkeep is in `upkeep`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from lego_ray.cli import options
from lego_ray.cli.command import Group
from lego_ray.cli.json_rows import json_row
from lego_ray.cli.printing import percent, print_json, print_table
from lego_ray.errors import NotRecordedYet

if TYPE_CHECKING:
    import pyarrow as pa

# People read this many rows; scripts take --json and get them all.
SHOWN = 100


# Columns that a narrow terminal does without, the first to go first.
_SPARE = (
    *(
        "seconds",
        "distance",
        "iterations",
        "clusters",
        "similarity",
        "through",
        "norm_ratio",
        "d_in",
    ),
    *("d_out", "refused", "output_uri", "merge_id", "msus", "n_msus", "rank", "adapters"),
)

at = click.option(
    "--at",
    metavar="TIME",
    help="Answer as of this time: 2026-11-24T10:00Z (UTC if it names no zone), 2d (ago), yesterday.",
)
version = click.option(
    "--version", type=int, metavar="N", help="Version of the merge. [default: the latest]"
)


@click.group(cls=Group)
def catalog() -> None:
    """Ask a catalog what was scanned and merged, and keep it in order.

    \b
    Examples:
      lego-ray catalog list --catalog ./catalog
      lego-ray catalog sql "SELECT name, rank FROM merges" --catalog ./catalog
      lego-ray catalog check --catalog ./catalog --deep
    """


@catalog.command()
@click.argument("query")
@options.required_catalog
@at
@click.option(
    "--time-limit",
    default="60s",
    show_default=True,
    metavar="TIME",
    help="Stop a query that takes longer, such as 5m.",
)
@options.as_json
def sql(query: str, catalog: str, at: str | None, time_limit: str, as_json: bool) -> None:
    """Answer one SELECT over the tables adapters, merges, merge_sites, msus and groups.

    \b
    Examples:
      lego-ray catalog sql "SELECT name, rank FROM merges" --catalog ./catalog
      lego-ray catalog sql "DESCRIBE msus" --catalog s3://zoo/catalog --json
    """
    from lego_ray import catalog as calls

    _print_rows(calls.sql(catalog, query, at=at, time_limit=time_limit), as_json, whole=True)


@catalog.command("list")
@options.required_catalog
@at
@options.as_json
def list_(catalog: str, at: str | None, as_json: bool) -> None:
    """List the merges, newest first.

    \b
    Examples:
      lego-ray catalog list --catalog ./catalog
      lego-ray catalog list --catalog ./catalog --at 2026-11-24T10:00Z
    """
    from lego_ray import catalog as calls

    table = calls.list_merges(catalog, at=at)
    shown = ["name", "version", "method", "rank", "created_at", "seconds", "output_uri", "merge_id"]
    _print_rows(table if as_json else table.select(shown), as_json)


@catalog.command()
@options.required_catalog
@click.option("--since", metavar="TIME", help="Leave out what is older: 1d, or a time as for --at.")
@at
@options.as_json
def log(catalog: str, since: str | None, at: str | None, as_json: bool) -> None:
    """List what was done, newest first: scans that found something, and merges.

    \b
    Examples:
      lego-ray catalog log --catalog ./catalog
      lego-ray catalog log --since 1d --catalog ./catalog --json
    """
    from lego_ray import catalog as calls

    _print_rows(calls.log(catalog, since=since, at=at), as_json)


@catalog.command()
@options.required_catalog
@click.option(
    "--since",
    required=True,
    metavar="TIME|NAME@VERSION|ID",
    help="Compare with the catalog of then: 1d, a time as for --at, or when a merge was recorded.",
)
@at
@options.as_json
def diff(catalog: str, since: str, at: str | None, as_json: bool) -> None:
    """Show the adapters and merges added, changed and gone since a time or a version of a merge.

    Of a merge that was added, says what differs from the version before it.

    \b
    Examples:
      lego-ray catalog diff --since 1d --catalog ./catalog
      lego-ray catalog diff --since 7d --at yesterday --catalog ./catalog
      lego-ray catalog diff --since support@2 --catalog ./catalog
    """
    from lego_ray import catalog as calls

    table = calls.diff(catalog, since=since, at=at)
    _print_rows(table, as_json)
    if not as_json:
        changes = table["change"].to_pylist()
        said = [f"{changes.count(each):,} {each}" for each in ("added", "changed", "gone")]
        click.echo(", ".join(said))


@catalog.command()
@click.argument("merge")
@options.required_catalog
@version
@at
@options.as_json
def show(merge: str, catalog: str, version: int | None, at: str | None, as_json: bool) -> None:
    """Show one merge, by its name or merge_id, its sites, and the group it was made of.

    \b
    Examples:
      lego-ray catalog show merged --catalog ./catalog
      lego-ray catalog show merged --version 1 --catalog ./catalog --json
    """
    from lego_ray import catalog as calls

    try:
        detail = calls.show(catalog, merge, version=version, at=at)
    except NotRecordedYet as error:
        if as_json:
            print_json({"merge": None, "summary": None, "sites": [], "groups": []})
        else:
            click.echo(f"(none) {error.what}")
        return
    if as_json:
        sites = [json_row(row) for row in detail.sites.to_pylist()]
        merged = json_row(detail.merge)
        groups = [json_row(row) for row in detail.groups.to_pylist()]
        told = {
            "merge": merged,
            "summary": json_row(detail.summary()),
            "sites": sites,
            "groups": groups,
        }
        print_json(told)
        return
    from lego_ray.cli.merge_detail import print_merge

    print_merge(detail)
    click.echo()
    _print_rows(detail.sites.drop_columns(["merge_id"]), as_json)
    given = f"{detail.merge['name']} --version {detail.merge['version']}"
    click.echo(f"\n`lego-ray catalog lineage {given}` shows its adapters, and the share of each")
    if detail.groups.num_rows:
        click.echo()
        shown = ["group_name", "uri", "similarity", "nearest_group", "nearest_similarity"]
        _print_rows(detail.groups.select(shown), as_json)


@catalog.command()
@click.argument("merge", required=False)
@click.option("--adapter", metavar="ADAPTER", help="List the merges that hold this adapter.")
@click.option("--site", metavar="SITE", help="List the source ranks of this site's merged ranks.")
@click.option(
    "--rank", type=int, metavar="I", help="List the source ranks of this merged rank, from 0."
)
@options.required_catalog
@version
@at
@options.as_json
def lineage(merge: str | None, adapter: str | None, as_json: bool, **given: Any) -> None:
    """Say what a merge is made of, or what an adapter went into.

    With MERGE: its adapters, how much of it is each one's, and the versions it updates; with --site
    or --rank, which rank of which adapter went into each merged rank. With --adapter, by its
    adapter_id, URI or name: every merge that holds it, directly or through a merged adapter.

    \b
    Examples:
      lego-ray catalog lineage merged --catalog ./catalog
      lego-ray catalog lineage merged --site layers.0.q_proj --catalog ./catalog
      lego-ray catalog lineage merged --rank 3 --catalog ./catalog --json
      lego-ray catalog lineage --adapter ./adapters/french --catalog ./catalog
    """
    from lego_ray import catalog as calls

    if (merge is None) == (adapter is None):
        raise click.UsageError("give MERGE or --adapter")
    if merge is not None:
        place = given.pop("catalog")
        try:
            table = calls.lineage(place, merge, **given)
            line = calls.parents(place, merge, version=given["version"], at=given["at"])
        except NotRecordedYet as error:
            if as_json:
                print_json({"columns": [], "rows": [], "parents": []})
            else:
                click.echo(f"(none) {error.what}")
            return
        _print_rows(table, as_json, parents=line)
        from lego_ray.catalog.ids import SHOWN_DIGITS

        for each in () if as_json else line:
            click.echo(f"updates  {each['merge_id'][:SHOWN_DIGITS]}  {_which(each)}")
        return
    if any(given[name] is not None for name in ("site", "rank", "version")):
        raise click.UsageError("--site, --rank and --version go with MERGE, not with --adapter")
    _print_rows(calls.merges_with(given["catalog"], str(adapter), at=given["at"]), as_json)


def _which(merge: dict[str, Any]) -> str:
    if merge["version"] is None:
        return "not in this catalog"
    return f"version {merge['version']} of {merge['name']}, {merge['output_uri']}"


def _print_rows(table: pa.Table, as_json: bool, *, whole: bool = False, **more: Any) -> None:
    """Prints rows; for people, ids in as many digits as are enough, unless `whole`."""
    if as_json:
        rows = [json_row(row) for row in table.to_pylist()]
        print_json({"columns": table.column_names, "rows": rows, **more})
        return
    from lego_ray.catalog.ids import SHOWN_DIGITS

    rows = table.slice(0, SHOWN).to_pylist()
    if not whole and "share" in table.column_names:
        for row in rows:
            row["share"] = percent(row["share"])
    ids = () if whole else [n for n in table.column_names if n == "id" or n.endswith("_id")]
    for row in rows:
        row |= {name: row[name] and row[name][:SHOWN_DIGITS] for name in ids}
    spare = () if whole else _SPARE
    print_table(table.column_names, [tuple(row.values()) for row in rows], spare=spare)
    if not rows:
        click.echo("(none)")
    if table.num_rows > SHOWN:
        click.echo(f"... {table.num_rows - SHOWN} more rows; --json prints them all")
