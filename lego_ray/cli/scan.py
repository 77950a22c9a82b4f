"""`lego-ray scan`: the adapters there are, from their headers."""

from __future__ import annotations

from typing import Any

import click

from lego_ray.amounts import size
from lego_ray.cli import options
from lego_ray.cli.command import command
from lego_ray.cli.printing import (
    count,
    named_below,
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
@options.catalog
@options.selection
@options.tags
@options.strict
@options.as_json
def scan(as_json: bool, **given: Any) -> None:
    """Index adapters from their headers alone.

    \b
    Examples:
      lego-ray scan ./adapters
      lego-ray scan s3://zoo/adapters --catalog s3://zoo/catalog
      lego-ray scan ./adapters --tags tags.csv --tags-from-folders task/language
    """
    from lego_ray.api.scan import scan as call
    from lego_ray.cli.progress import CountProgress

    with CountProgress("scan", "adapter") as progress:
        record = call(**options.given_of(given), progress=progress)
    if as_json:
        print_json(record)
        return
    names = named_below([a["uri"] for a in record["adapters"]])
    print_table(
        ("adapter", "format", "rank", "sites", "size", "base model"),
        (
            (
                name,
                a["format"],
                rank_range(a["rank_min"], a["rank_max"]),
                a["n_sites"],
                size(a["n_bytes"]),
                a["base_model"],
            )
            for name, a in zip(names, record["adapters"], strict=True)
        ),
    )
    for warning in record["warnings"]:
        print_warning(warning)
    print_set_aside(record)
    print_refused(record["refused"])
    click.echo(
        f"{said_of(record['counts'])}; "
        f"{size(record['bytes_read'])} read in {record['seconds']:.1f} s"
    )
    if record["catalog"]:
        click.echo(f"catalog  {record['catalog']}  ({count(record['new'], 'new row')})")
