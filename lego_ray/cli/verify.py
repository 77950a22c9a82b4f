"""`lego-ray verify`: a merge held against its manifest and its sources."""

from __future__ import annotations

from typing import Any

import click

from lego_ray.cli import merged as merged_by
from lego_ray.cli import options
from lego_ray.cli.command import command
from lego_ray.cli.param_types import Place
from lego_ray.cli.printing import count, print_json, print_warning
from lego_ray.cli.verify_table import print_errors


@command()
@merged_by.merged
@click.option(
    "--sources",
    multiple=True,
    type=Place("file"),
    metavar="SOURCE...",
    help="Source adapters, to compute exact errors.",
)
@click.argument("more_sources", nargs=-1, metavar="", type=Place("file"))
@options.base
@merged_by.catalog
@options.memory_budget
@options.as_json
def verify(
    as_json: bool, sources: tuple[str, ...], more_sources: tuple[str, ...], **given: Any
) -> None:
    """Check a merged adapter against its manifest and its sources.

    With --sources, says how far it is from the sum and the weighted mean of their updates, and how much
    of each source's update it keeps, <merged, source> / |source|^2: overall and, in --json, by module.

    \b
    Examples:
      lego-ray verify ./merged
      lego-ray verify ./merged --sources ./adapters
    """
    from lego_ray.api.verify import verify as call
    from lego_ray.cli.progress import CountProgress

    if more_sources and not sources:
        raise click.UsageError(f"unexpected {more_sources[0]!r}; name sources with --sources")
    given["merged"] = merged_by.place_of(given["merged"], given.pop("catalog"))
    with CountProgress("verify", "site") as progress:
        record = call(
            **options.given_of(given), sources=(*sources, *more_sources), progress=progress
        )
    if as_json:
        print_json(record)
        return
    for warning in record["warnings"]:
        print_warning(warning)
    click.echo(
        f"ok: {', '.join(record['files'])} are as published; rank {record['rank']}, "
        f"{count(record['sites'], 'site')}, {count(record['sources'], 'source')}\n"
        f"merge {record['merge_id']}"
    )
    if record["errors"]:
        print_errors(record["errors"])
    else:
        click.echo("give --sources to compute the errors to the source adapters")
