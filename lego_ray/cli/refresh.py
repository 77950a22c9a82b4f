"""`lego-ray refresh`: a library brought up to date, on a schedule."""

from __future__ import annotations

from typing import Any

import click

from lego_ray.amounts import size
from lego_ray.cli import options
from lego_ray.cli.command import command
from lego_ray.cli.defaults import without_default_catalog
from lego_ray.cli.exit import check_all_made
from lego_ray.cli.interrupts import resumable
from lego_ray.cli.logs import shown
from lego_ray.cli.param_types import Place
from lego_ray.cli.printing import (
    count,
    print_advice,
    print_all_refused,
    print_failed,
    print_json,
    print_library_counts,
    print_set_aside,
    print_table,
    print_warnings,
)


@command()
@click.argument("recipe", metavar="RECIPE.yaml", type=Place("file"))
@click.option("--output", type=Place(), metavar="URI", help="Where the library is.")
@options.catalog
@options.library_checkpoints
@options.scan_limits
@options.library_base
@options.run
@options.memory_budget
@click.option(
    "--stale-after",
    default="5m",
    show_default=True,
    metavar="TIME",
    help="Take over from another refresh that has been silent for this long.",
)
@options.log
@options.as_json
def refresh(as_json: bool, log: str, **given: Any) -> None:
    """Bring a library up to date: made to be run on a schedule.

    Scans the sources into the catalog, and makes those merges of the recipe file whose adapters or
    recipe changed, each as a new version in OUTPUT/NAME/PLAN. Former versions stay; the current one
    is the catalog's row of the highest version. If nothing is new, nothing is merged; if another
    refresh is at it, this one ends at once, with exit 0, and says who.

    \b
    Examples:
      lego-ray refresh library.yaml --output s3://zoo/library
    """
    given = without_default_catalog(given)
    with resumable(None), shown(log):
        from lego_ray.api.refresh import refresh as call
        from lego_ray.cli.progress import SiteProgress
        from lego_ray.storage.lease import told

        with SiteProgress() as progress:
            record = call(given.pop("recipe"), **options.given_of(given), progress=progress)
    if as_json:
        check_all_made(record)
        print_json(record)
        return
    if record["holder"]:
        click.echo(f"busy: another refresh is running ({told(record['holder'])}); nothing was done")
        return
    print_warnings(record["merges"])
    print_set_aside(record)
    print_all_refused(record)
    print_failed(record["failed"])
    print_table(
        ("merge", "version", "adapters", "rank", "status", "output"),
        (
            (m["name"], m["version"], len(m["adapters"]), m["rank"], m["status"], m["output"])
            for m in record["merges"]
        ),
    )
    counts = record["counts"]
    usable = counts["usable"] if counts else record["adapters"]
    click.echo(
        f"{record['status']}: {count(usable, 'adapter')}, {record['new']} new in the "
        f"catalog; {size(record['bytes_read'])} read in {record['seconds']:.1f} s"
    )
    print_library_counts(record["counts"])
    print_advice(record["merges"])
    check_all_made(record)
