"""`lego-ray merge`: many adapters into one."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import click

from lego_ray.amounts import size
from lego_ray.cli import options
from lego_ray.cli.built_table import print_built
from lego_ray.cli.command import command
from lego_ray.cli.exit import check_all_made
from lego_ray.cli.interrupts import resumable
from lego_ray.cli.logs import QUARANTINED, shown
from lego_ray.cli.param_types import Place
from lego_ray.cli.printing import (
    count,
    nearest,
    print_advice,
    print_counts,
    print_json,
    print_refused,
    print_set_aside,
    print_warning,
    rank_range,
)
from lego_ray.cli.start_runner import starting


@command()
@options.sources
@click.option(
    "--output",
    required=True,
    type=Place(),
    metavar="URI",
    help="Where to write the merged adapter.",
)
@options.recipe
@options.catalog
@options.run
@options.method
@options.log
@options.as_json
def merge(as_json: bool, log: str, **given: Any) -> None:
    """Merge the adapters under some sources into one.

    Writes a directory in the layout the sources came in, PEFT's for mlx-lm's; the file that makes it
    an adapter is last. Nothing is ever overwritten: run again, the same merge is left as it is.
    Finished tasks are kept beside the output until then, so a run that was stopped goes on where it
    was.

    \b
    Examples:
      lego-ray merge ./adapters --rank 16 --output ./merged --catalog ./catalog
      lego-ray merge s3://zoo/a ./b --rank auto --method svd --output s3://zoo/m
      lego-ray merge ./adapters --rank 8,16,32 --output ./ranks
      lego-ray merge ./adapters --rank 8 --weight french=2 --output ./m --json
    """
    if isinstance(given["rank"], tuple):
        _at_ranks(given, log, as_json=as_json)
        return
    with resumable(given["output"]) as last, shown(log, QUARANTINED):
        record = _merge(given, last)
    if as_json:
        print_json(record)
        return
    for warning in record["warnings"]:
        print_warning(warning)
    print_set_aside(record)
    print_refused(record["refused"])
    click.echo(
        f"{record['status']}: {count(len(record['adapters']), 'adapter')} merged at rank "
        f"{_merged_rank(record)} over {count(record['sites'], 'site')}, "
        f"{size(record['bytes_read'])} read in {record['seconds']:.1f} s\n"
        f"output   {record['output']}\n"
        f"catalog  {record['catalog'] or '(none; give --catalog)'}\n"
        f"merge    {record['merge_id']}"
    )
    print_counts(record["counts"], "merged")
    print_advice([record])


def _merge(given: dict[str, Any], last: ExitStack) -> Mapping[str, Any]:
    given = options.given_of(given)
    from lego_ray.planning.rank_options import asked_rank

    asked_rank(
        *(given.get(name) for name in ("rank", "rank_error", "rank_budget"))
    )  # before Ray is started
    runner = starting(given, last)
    from lego_ray.api.merge import merge as call
    from lego_ray.cli.progress import SiteProgress

    with SiteProgress() as progress:
        record = call(**given, runner=runner, progress=progress)
    runner.close()
    return record


def _at_ranks(given: dict[str, Any], log: str, *, as_json: bool) -> None:
    """Makes a merge at each of several ranks, and prints them."""
    given = options.given_of(given)
    ranks = given.pop("rank")
    from lego_ray.planning.rank_options import asked_ranks

    asked_ranks(ranks, given)  # before Ray is started
    with resumable(None) as last, shown(log, QUARANTINED):
        runner = starting(given, last)
        from lego_ray.api.merge_ranks import merge_ranks as call
        from lego_ray.cli.progress import SiteProgress

        with SiteProgress() as progress:
            record = call(**given, ranks=ranks, runner=runner, progress=progress)
        runner.close()
    if as_json:
        check_all_made(record)
        print_json(record)
        return
    print_built(record)
    check_all_made(record)


def _merged_rank(record: Mapping[str, Any]) -> str:
    ranks = record["ranks"].values() if record["ranks"] else [record["rank"]]
    return rank_range(min(ranks), max(ranks)) + nearest(record["nearest_error"])
