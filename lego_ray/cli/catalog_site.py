"""`lego-ray catalog site`: a catalog as pages for a browser."""

from __future__ import annotations

import click

from lego_ray.amounts import size
from lego_ray.cli import options
from lego_ray.cli.command import command
from lego_ray.cli.param_types import Place
from lego_ray.cli.printing import count, print_json, print_warning


@command()
@options.required_catalog
@click.option(
    "--output",
    required=True,
    type=Place(),
    metavar="URI",
    help="Where to write the site: a directory or s3://bucket/prefix. An older site is replaced.",
)
@click.option(
    "--root",
    type=Place(),
    metavar="URI",
    help="Also list what gc would delete below this directory or s3://bucket/prefix.",
)
@click.option(
    "--check/--no-check",
    default=True,
    show_default=True,
    help="Check the catalog and list its problems; reads the manifest of every merge.",
)
@options.as_json
def site(catalog: str, output: str, root: str | None, check: bool, as_json: bool) -> None:
    """Write the catalog as a static site: adapters, merges, lineage, groups, health.

    Open its index.html in a browser. It needs no server and no network, and loads its data in small
    files when they are shown. Run the command again to bring the site up to date: only changed files
    are written, the index last.

    \b
    Examples:
      lego-ray catalog site --catalog ./catalog --output ./site
      lego-ray catalog site --catalog ./catalog --output ./site --root ./library
      lego-ray catalog site --catalog s3://zoo/catalog --output s3://zoo/site
    """
    import lego_ray

    record = lego_ray.write_catalog_site(catalog, output=output, root=root, check=check)
    if as_json:
        print_json(record)
        return
    for warning in record.warnings:
        print_warning(warning)
    click.echo(f"site     {record.index}")
    amount = f"{count(record.files, 'file')}, {size(record.bytes)}"
    click.echo(f"files    {amount}; {record.written} written, {record.removed} old ones deleted")
    shown = [count(record.adapters, "adapter"), count(record.merges, "merge")]
    shown.append(count(record.groupings, "grouping"))
    if record.trials is not None:
        shown.append(count(record.trials, "trial"))
    click.echo(f"shows    {', '.join(shown)}")
    if record.problems is not None:
        found = count(record.problems, "problem") if record.problems else "ok"
        click.echo(f"check    {found}")
