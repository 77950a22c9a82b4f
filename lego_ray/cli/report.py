"""`lego-ray report`: a merge as one HTML page."""

from __future__ import annotations

from typing import Any

import click

from lego_ray.amounts import size
from lego_ray.cli import merged as merged_by
from lego_ray.cli import options
from lego_ray.cli.command import command
from lego_ray.cli.defaults import is_default
from lego_ray.cli.param_types import Place
from lego_ray.cli.printing import print_json, print_warning
from lego_ray.errors import InvalidOption


@command()
@merged_by.merged
@click.option(
    "--output",
    required=True,
    type=Place("file"),
    metavar="PATH",
    help="Where to write the page; an older page is replaced.",
)
@options.catalog_option(
    "Catalog with the merge, to add clusters, lineage, inertia, time and bytes, and to look "
    "MERGED up by its name or id. [default: `catalog` beside the merge or its library]"
)
@click.option(
    "--sources",
    multiple=True,
    type=Place("file"),
    metavar="SOURCE...",
    help="Where the source adapters are now. [default: where the manifest says, if they can be read]",
)
@click.option(
    "--no-sources",
    is_flag=True,
    help="Do not read the sources: no shares kept, similarities, exact errors and norms.",
)
@click.option(
    "--study",
    type=Place(),
    metavar="URI",
    help="Study of tune that the merge is the best of. [default: the merge's URI with -study]",
)
@click.argument("more_sources", nargs=-1, metavar="", type=Place("file"))
@options.memory_budget
@options.as_json
def report(
    as_json: bool,
    sources: tuple[str, ...],
    more_sources: tuple[str, ...],
    no_sources: bool,
    **given: Any,
) -> None:
    """Write one HTML page about a merge: what each adapter kept, figures and their numbers.

    It needs no network and runs no script. The sources are read where the manifest says, if they are in
    the same store as the merge; the catalog, in `catalog` beside the merge or its library. A section
    that lacks its data says which flag brings them. The best merge of tune has a section on its trials.
    Draws with matplotlib: pip install 'lego-ray[report]'.

    \b
    Examples:
      lego-ray report ./merged --output page.html --catalog ./catalog
      lego-ray report ./merged --output page.html --sources ./adapters
      lego-ray report ./merged --output page.html --no-sources
    """
    from lego_ray.api.report import report as write_report

    if more_sources and not sources:
        raise click.UsageError(f"unexpected {more_sources[0]!r}; name sources with --sources")
    if no_sources and sources:
        raise click.UsageError("--sources and --no-sources exclude each other")
    named = (*sources, *more_sources) or (() if no_sources else None)
    given["merged"] = merged_by.place_of(given["merged"], given["catalog"])
    try:
        record = write_report(**options.given_of(given), sources=named)
    except InvalidOption as error:
        if error.where != "--catalog" or not is_default("catalog"):
            raise
        given["catalog"] = None  # nobody asked for this catalog, and it does not have the merge
        record = write_report(**options.given_of(given), sources=named)
    if as_json:
        print_json(record)
        return
    for warning in record["warnings"]:
        print_warning(warning)
    click.echo(f"page   {record['output']}  ({size(record['bytes'])})\nmerge  {record['merge_id']}")
    has = record["sections"]
    recorded = has["lineage"] or has["clusters"] or has["stages"]
    lacking = [("--catalog", recorded), ("--sources", has["map"])]
    if flags := [flag for flag, value in lacking if not value]:
        click.echo(f"more with {' and '.join(flags)}")
