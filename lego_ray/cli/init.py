"""`lego-ray init`: a first recipe file for a zoo."""

from __future__ import annotations

from typing import Any

import click

from lego_ray.cli import options
from lego_ray.cli.command import command
from lego_ray.cli.param_types import Place
from lego_ray.cli.printing import (
    count,
    print_json,
    print_refused,
    print_set_aside,
    print_table,
    print_warning,
    rank_range,
)
from lego_ray.planning.counts import said_of


@command()
@options.sources
@click.option(
    "--output",
    default="recipe.yaml",
    show_default=True,
    type=Place("file"),
    metavar="PATH",
    help="Where to write the recipe file; no file is ever replaced.",
)
@click.option(
    "--library",
    default="library",
    show_default=True,
    type=Place(),
    metavar="URI",
    help="What the file has as `output`: where its merges go.",
)
@options.catalog_option("What the file has as `catalog`.")
@options.checkpoints
@options.scan_limits
@options.as_json
def init(as_json: bool, **given: Any) -> None:
    """Write a commented recipe file for the adapters that are there.

    It has one merge per base model. Headers are read, and each merge is planned: one that cannot be
    made as it is, is a comment in the file, with the reason.

    \b
    Examples:
      lego-ray init ./adapters
      lego-ray init s3://zoo/adapters --output zoo.yaml --library s3://zoo/library
    """
    from lego_ray.api.init import init as call
    from lego_ray.cli.progress import CountProgress

    with CountProgress("init", "adapter") as progress:
        record = call(**options.given_of(given), progress=progress)
    if as_json:
        print_json(record)
        return
    print_table(
        ("merge", "base model", "adapters", "rank", ""),
        (
            (
                m["name"],
                m["base_model"] or "(none)",
                m["adapters"],
                rank_range(m["rank_min"], m["rank_max"]),
                "a comment: it cannot be merged as it is" if m["problem"] else "",
            )
            for m in record["merges"]
        ),
    )
    for warning in record["warnings"]:
        print_warning(warning)
    print_set_aside(record)
    print_refused(record["refused"])
    made = sum(m["problem"] is None for m in record["merges"])
    click.echo(
        f"{said_of(record['counts'])}; {count(made, 'merge')}\n"
        f"recipe  {record['recipe']}\n"
        f"next    lego-ray build {record['recipe']} --dry-run"
    )
