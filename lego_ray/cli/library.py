"""`lego-ray build`: a library of merges from a recipe file."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import click

from lego_ray.cli import options
from lego_ray.cli.interrupts import resumable
from lego_ray.cli.logs import shown
from lego_ray.cli.printing import count, print_json, print_refused, print_table, size
from lego_ray.cli.running import starting


@click.command()
@click.argument("recipe", metavar="RECIPE.yaml")
@click.option("--output", metavar="URI", help="Where the merges go, each below its name.")
@options.catalog
@options.run
@options.log
@options.as_json
def build(as_json: bool, log: str, **given: Any) -> None:
    """Build a library: every merge of a recipe file, each adapter read once for all of them.

    Each merge is what `lego-ray merge` makes of the same adapters. Run again, what is published is
    left as it is, and what was stopped goes on.

    \b
    A recipe file:
      sources: [s3://zoo/adapters]
      catalog: s3://zoo/catalog
      output: s3://zoo/library
      defaults: {rank: 16}
      merges:
        - name: summarise
          where: tags.task = 'summarise' and rank <= 16
        - name: french
          adapters: [customers/*-fr]
          method: svd
    """
    with resumable(None) as last, shown(log):
        record = _build(given, last)
    if as_json:
        print_json(record)
        return
    for merge in record["merges"]:
        for warning in merge["warnings"]:
            click.echo(f"warning   {merge['name']}: {warning}")
    print_refused(record["refused"])
    print_table(
        ("merge", "adapters", "rank", "sites", "status", "output"),
        (
            (m["name"], len(m["adapters"]), m["rank"], m["sites"], m["status"], m["output"])
            for m in record["merges"]
        ),
    )
    click.echo(
        f"{count(len(record['merges']), 'merge')} of {count(record['adapters'], 'adapter')}, "
        f"{size(record['bytes_read'])} read in {record['seconds']:.1f} s"
    )
    click.echo(f"catalog  {record['catalog'] or '(none; give --catalog)'}")


def _build(given: dict[str, Any], last: ExitStack) -> dict[str, Any]:
    runner = starting(given, last)
    from lego_ray.cli.progress import SiteProgress
    from lego_ray.execution.building import build as call

    with SiteProgress() as progress:
        record = call(given.pop("recipe"), **given, runner=runner, progress=progress)
    runner.close()
    return record
