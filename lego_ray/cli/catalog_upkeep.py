"""`lego-ray catalog migrate|compact|vacuum|gc|check|repair|adopt`: a catalog kept in order."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from lego_ray.amounts import size
from lego_ray.cli import options
from lego_ray.cli.command import command
from lego_ray.cli.exit import Failed
from lego_ray.cli.param_types import Place
from lego_ray.cli.printing import count, print_json, print_table, styled
from lego_ray.errors import VerificationFailed

force = click.option(
    "--force",
    is_flag=True,
    help="Allow less than a day. Only safe if nobody uses what would be removed.",
)


@command()
@options.required_catalog
@options.as_json
def migrate(catalog: str, as_json: bool) -> None:
    """Bring a catalog of an earlier release up to this one's schema.

    Adds columns; no row is changed or lost, and nobody who reads is disturbed.

    \b
    Examples:
      lego-ray catalog migrate --catalog ./catalog
    """
    from lego_ray import catalog as calls
    from lego_ray.catalog.schema import SCHEMA_VERSION

    done = calls.migrate(catalog)
    if as_json:
        print_json({"schema_version": SCHEMA_VERSION, "tables": [asdict(each) for each in done]})
        return
    rows = [(d.table, d.version_before, SCHEMA_VERSION, ", ".join(d.added) or "-") for d in done]
    print_table(("table", "from", "to", "columns added"), rows)


@command()
@options.required_catalog
@options.as_json
def compact(catalog: str, as_json: bool) -> None:
    """Rewrite the small files of each table into large ones.

    Changes no row, and may be run while others read, write and compact: each file is replaced once. The
    former files stay until vacuum.

    \b
    Examples:
      lego-ray catalog compact --catalog ./catalog
    """
    from lego_ray import catalog as calls

    done = calls.compact(catalog)
    if as_json:
        print_json({"tables": [asdict(each) for each in done]})
        return
    rows = [(each.table, each.files_before, each.files_after) for each in done]
    print_table(("table", "files before", "files after"), rows)
    for each in done:
        if each.by_others:
            click.echo(
                f"note      another process replaced {count(each.by_others, 'file')} of {each.table} "
                "first; this one left them to it"
            )


@command()
@options.required_catalog
@click.option(
    "--retention",
    default="7d",
    show_default=True,
    metavar="TIME",
    help="Keep replaced files this long, such as 7d or 36h; at least a day.",
)
@click.option("--dry-run", is_flag=True, help="Only print what would be removed.")
@force
@options.as_json
def vacuum(catalog: str, retention: str, dry_run: bool, force: bool, as_json: bool) -> None:
    """Remove files of the tables that were replaced some time ago.

    Whoever opened a table within the retention reads on undisturbed, and --at reaches back as far. Files
    that no commit names may be about to be committed; they are kept for a day, with --force too.

    \b
    Examples:
      lego-ray catalog vacuum --catalog ./catalog --dry-run
      lego-ray catalog vacuum --catalog ./catalog --retention 36h
    """
    from lego_ray import catalog as calls

    done = calls.vacuum(catalog, retention=retention, dry_run=dry_run, force=force)
    if as_json:
        print_json({"dry_run": dry_run, "tables": [asdict(each) for each in done]})
        return
    print_table(("table", "files", "size"), [(v.table, v.files, size(v.n_bytes)) for v in done])
    amount = f"{count(sum(v.files for v in done), 'file')}, {size(sum(v.n_bytes for v in done))}"
    click.echo(f"{amount} would be removed" if dry_run else f"{amount} removed")


@command()
@options.required_catalog
@click.option(
    "--root",
    required=True,
    type=Place(),
    metavar="URI",
    help="Search only this directory or s3://bucket/prefix.",
)
@click.option(
    "--older-than",
    default="7d",
    show_default=True,
    metavar="TIME",
    help="Keep what is younger, such as 7d or 36h; at least a day.",
)
@click.option(
    "--delete", is_flag=True, help="Delete what is found. Without this flag nothing changes."
)
@force
@options.as_json
def gc(as_json: bool, **given: Any) -> None:
    """List, or delete, what merges left below a root that no row of the catalog refers to.

    Outputs that are not recorded, publishes that were cut short, finished tasks of runs that were given
    up, and details in the catalog of merges that were never published. Only files that lego-ray wrote
    and nobody changed are touched. An output that is recorded in another catalog only counts as not
    recorded.

    \b
    Examples:
      lego-ray catalog gc --catalog ./catalog --root ./library
      lego-ray catalog gc --catalog ./catalog --root ./library --delete
    """
    import lego_ray

    record = lego_ray.collect_garbage(**given)
    if as_json:
        print_json(record)
        return
    print_table(
        ("output", "what", "name", "files", "size", "last written"),
        (
            (o["output"], o["kind"], o["name"], o["files"], size(o["bytes"]), o["modified_at"])
            for o in record["outputs"]
        ),
    )
    for entry in record["kept"]:
        click.echo(f"kept      {entry['output']}\n          {entry['reason']}")
    for entry in record["details"]:
        click.echo(
            f"details   {count(entry['rows'], 'row')} of {entry['merge_id']}, {entry['table']}"
        )
    for sentence in record["unseen"]:
        click.echo(f"not seen  {sentence}")
    amount = f"{count(record['files'], 'file')}, {size(record['bytes'])}"
    if record["deleted"]:
        click.echo(f"deleted {amount}, and {count(record['rows_deleted'], 'row')} of details")
    else:
        click.echo(f"{amount}; nothing was deleted, give --delete for that")


@command()
@options.required_catalog
@click.option(
    "--deep",
    is_flag=True,
    help="Read every output whole to compare hashes, and compare every recorded value.",
)
@options.as_json
def check(catalog: str, deep: bool, as_json: bool) -> None:
    """Check a catalog's rows, and that each merge recorded is whole in the store.

    Finds rows that are doubled, wrong or lost, in every table. Ends with status 1 if there are any,
    or an output is not as recorded, with a line for each problem.

    \b
    Examples:
      lego-ray catalog check --catalog ./catalog
      lego-ray catalog check --catalog s3://zoo/catalog --deep --json
    """
    import lego_ray

    record = lego_ray.check_catalog(catalog, deep=deep)
    problems = record["problems"]
    if as_json and not problems:
        print_json(record)
    if not as_json:
        for each in problems:
            label = styled("problem", fg="red")
            click.echo(f"{label}   {_about(each)}: {each['where']}: {each['problem']}")
            if each["repair"]:
                click.echo(f"          repair: {each['repair']}")
        if record["unpublished"]:
            click.echo(
                f"note      details of {count(record['unpublished'], 'merge')} that have no row; "
                "`lego-ray catalog gc` takes old ones away"
            )
    if problems:
        fixed = sum(each["repair"] is not None for each in problems)
        repair = f"`lego-ray catalog repair --catalog {record['catalog']}`"
        advice = (
            f"{repair} shows how it puts {fixed} of them right."
            if fixed
            else "A merge whose output is damaged can be made again elsewhere."
        )
        error = VerificationFailed(
            record["catalog"],
            f"{count(len(problems), 'problem')} in a catalog of {count(record['merges'], 'merge')}",
            advice,
        )
        raise Failed(record, error)
    if not as_json:
        how = ", their files read whole" if deep else "; --deep reads their files whole"
        click.echo(f"ok: {count(record['merges'], 'merge')}{how}")


def _about(problem: dict[str, Any]) -> str:
    if problem["key"] is None:
        return f"{problem['name']} version {problem['version']}"
    if problem["name"] is None:
        return str(problem["key"])
    return f"{problem['name']} version {problem['version']}, {problem['key']}"


@command()
@options.required_catalog
@click.option("--apply", is_flag=True, help="Apply the repairs. Without this flag nothing changes.")
@options.as_json
def repair(catalog: str, apply: bool, as_json: bool) -> None:
    """Show how doubled, wrong and lost rows are put right, and with --apply do it.

    Each table is changed in one commit, and its former state stays in its history. Ends with status 1
    if something is wrong that cannot be put right from here.

    \b
    Examples:
      lego-ray catalog repair --catalog ./catalog
      lego-ray catalog repair --catalog ./catalog --apply
    """
    import lego_ray

    record = lego_ray.repair_catalog(catalog, apply=apply)
    left = record["left"]
    if as_json and not left:
        print_json(record)
    if not as_json:
        for each in record["repairs"]:
            click.echo(f"repair    {each['table']}: {each['key']}: {each['problem']}")
            click.echo(f"          {each['repair']}")
        for each in left:
            click.echo(f"left      {each['table']}: {each['key']}: {each['problem']}")
        print_table(
            ("table", "rows removed", "rows added", "rows changed"),
            [(t["table"], t["removed"], t["added"], t["changed"]) for t in record["tables"]],
        )
        if not record["repairs"]:
            click.echo("nothing to repair")
        elif apply:
            click.echo(f"repaired {count(len(record['repairs']), 'problem')}")
        else:
            click.echo("nothing was changed, give --apply for that")
    if left:
        error = VerificationFailed(
            record["catalog"],
            f"{count(len(left), 'problem')} cannot be repaired from the catalog and its outputs",
            "Make those merges again to another output, or scan the adapters again.",
        )
        raise Failed(record, error)


@command()
@click.argument("merged", metavar="MERGED_URI", type=Place())
@options.required_catalog
@options.as_json
def adopt(merged: str, catalog: str, as_json: bool) -> None:
    """Record a merge that was published without a catalog, or before its catalog failed.

    Verifies its files, then writes its row and those of its adapters from the manifest. The manifest
    does not say where each MSU went. To record that too, run the same merge with --catalog instead,
    while the sources are unchanged.

    \b
    Example:
      lego-ray catalog adopt ./merged --catalog ./catalog
    """
    import lego_ray

    record = lego_ray.adopt_merge(merged, catalog=catalog)
    if as_json:
        print_json(record)
        return
    click.echo(f"{record.status}: {record.name}, {record.merged}")
    click.echo(f"catalog  {record.catalog}")
    if not record.has_details:
        click.echo("note     without modules and MSUs: the manifest does not have them")


COMMANDS = (migrate, compact, vacuum, gc, check, repair, adopt)
