"""`lego-ray scan`: the adapters there are, from their headers."""

from __future__ import annotations

from typing import Any

import click

from lego_ray.amounts import size
from lego_ray.cli import options
from lego_ray.cli.command import command
from lego_ray.cli.printing import (
    count,
    print_json,
    print_refused,
    print_set_aside,
    print_table,
    rank_range,
    visible,
)


@command()
@options.sources
@options.catalog
@options.selection
@options.strict
@options.as_json
def scan(as_json: bool, **given: Any) -> None:
    """Index adapters from their headers alone.

    \b
    Examples:
      lego-ray scan ./adapters
      lego-ray scan s3://zoo/adapters --catalog s3://zoo/catalog
    """
    from lego_ray.api.scan import scan as call
    from lego_ray.cli.progress import CountProgress

    with CountProgress("scan", "adapter") as progress:
        record = call(**options.given_of(given), progress=progress)
    if as_json:
        print_json(record)
        return
    print_table(
        ("adapter", "format", "rank", "sites", "size", "base model"),
        (
            (
                a["uri"],
                a["format"],
                rank_range(a["rank_min"], a["rank_max"]),
                a["n_sites"],
                size(a["n_bytes"]),
                a["base_model"],
            )
            for a in record["adapters"]
        ),
    )
    for warning in record["warnings"]:
        click.echo(f"warning   {visible(warning)}")
    print_set_aside(record)
    print_refused(record["refused"])
    click.echo(
        f"{count(len(record['adapters']), 'adapter')}, {len(record['refused'])} left out, "
        f"{size(record['bytes_read'])} read in {record['seconds']:.1f} s"
    )
    if record["catalog"]:
        click.echo(f"catalog  {record['catalog']}  ({count(record['new'], 'new row')})")
