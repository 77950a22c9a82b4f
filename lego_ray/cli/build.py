"""`lego-ray build`: a library of merges from a recipe file."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from lego_ray.cli import options
from lego_ray.cli.built_table import print_built
from lego_ray.cli.command import command
from lego_ray.cli.defaults import without_default_catalog
from lego_ray.cli.exit import check_all_made
from lego_ray.cli.interrupts import resumable
from lego_ray.cli.logs import shown
from lego_ray.cli.param_types import NumberOrAuto, Place
from lego_ray.cli.printing import print_json
from lego_ray.cli.start_runner import starting

if TYPE_CHECKING:
    from lego_ray.library.record import LibraryRecord


@command()
@click.argument("recipe", metavar="RECIPE.yaml", type=Place("file"))
@click.option(
    "--output",
    type=Place(),
    metavar="URI",
    help="Where to write the merges, each in a folder of its name.",
)
@options.catalog
@click.option(
    "--groups",
    type=NumberOrAuto(),
    metavar="N|auto",
    help="Number of groups for each merge with `groups`.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Only plan. Reads headers, and adapters where groups must be found; writes nothing.",
)
@options.library_checkpoints
@options.scan_limits
@options.library_base
@options.run
@options.memory_budget
@options.log
@options.as_json
def build(as_json: bool, log: str, **given: Any) -> None:
    """Build a library: every merge of a recipe file, each adapter read once for all of them.

    Each merge is what `lego-ray merge` makes of the same adapters. Run again, what is published is
    left as it is, and what was stopped goes on. A merge with `groups` becomes one merge a group of
    adapters whose updates are alike, to find which reads its adapters once more, also again.

    \b
    Examples:
      lego-ray build library.yaml --output ./library
      lego-ray build library.yaml --groups auto --dry-run --json

    \b
    A recipe file:
      sources: [s3://zoo/adapters]
      catalog: s3://zoo/catalog
      output: s3://zoo/library
      defaults: {rank: 16}
      merges:
        - name: summarize
          where: tags.task = 'summarize' and rank <= 16
        - name: french
          adapters: [customers/*-fr]
          method: svd
        - name: support
          groups: auto
    """
    given = without_default_catalog(given)
    with resumable(None) as last, shown(log):
        record = _build(given, last)
    if as_json:
        check_all_made(record)
        print_json(record)
        return
    print_built(record)
    check_all_made(record)


def _build(given: dict[str, Any], last: ExitStack) -> LibraryRecord:
    given = options.given_of(given)
    runner = starting(given, last)
    from lego_ray.api.build import build as call
    from lego_ray.cli.progress import SiteProgress

    with SiteProgress() as progress:
        record = call(given.pop("recipe"), **given, runner=runner, progress=progress)
    runner.close()
    return record
