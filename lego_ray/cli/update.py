"""`lego-ray update`: the next version of a merge."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import click

from lego_ray.amounts import size
from lego_ray.cli import options
from lego_ray.cli.command import Command
from lego_ray.cli.interrupts import resumable
from lego_ray.cli.logs import QUARANTINED, shown
from lego_ray.cli.param_types import Place
from lego_ray.cli.printing import (
    count,
    print_counts,
    print_json,
    print_refused,
    print_set_aside,
    print_warning,
    ratio,
)
from lego_ray.cli.start_runner import starting
from lego_ray.planning.options import RUNNER_OPTIONS


class _Several(Command):
    """A command whose `--add` and `--remove` each take all that follows up to the next flag."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        spread: list[str] = []
        flag = ""
        for arg in args:
            if arg in ("--add", "--remove"):
                spread.append(arg)
                flag = arg
                first = True
                continue
            if flag and not arg.startswith("-"):
                spread += [arg] if first else [flag, arg]
                first = False
                continue
            flag = ""
            spread.append(arg)
        return super().parse_args(ctx, spread)


@click.command(cls=_Several)
@click.argument("merge", metavar="MERGE", type=Place())
@click.option("--add", type=Place(), multiple=True, metavar="SOURCE...", help="Adapters to add.")
@click.option(
    "--remove",
    multiple=True,
    metavar="ADAPTER...",
    help="Adapters to remove, by name, URI or first digits of the id. They are read too.",
)
@click.option(
    "--refit", is_flag=True, help="Read all adapters and merge them again, with the same recipe."
)
@click.option(
    "--output",
    type=Place(),
    metavar="URI",
    help="Where to write the new version. [default: beside MERGE, as MERGE-v2, -v3, ...]",
)
@options.checkpoints
@options.scan_limits
@options.base
@options.catalog
@options.memory_budget
@options.run
@options.log
@options.as_json
def update(as_json: bool, log: str, **given: Any) -> None:
    """Make the next version of a merge, reading only the adapters that change.

    MERGE is where a merge made with --updatable is, or its name or id in the catalog. New ranks go to
    the nearest centroid of the last full merge. Adding an adapter and removing it again gives back the
    earlier bytes. Drift says how much larger the inertia is than a full merge's is estimated to be;
    --refit is that full merge, and takes merges made without --updatable too.

    \b
    Examples:
      lego-ray update ./merged --add ./adapters/new --catalog ./catalog
      lego-ray update ./merged-v2 --remove french german
      lego-ray update ./merged-v3 --refit
    """
    with resumable(None) as last, shown(log, QUARANTINED):
        record = _update(given, last)
    if as_json:
        print_json(record)
        return
    for warning in record["warnings"]:
        print_warning(warning)
    print_set_aside(record)
    print_refused(record["refused"])
    if record["skipped_sites"]:
        click.echo(
            f"left out  {count(len(record['skipped_sites']), 'site')} that the merge does not have, "
            f"such as {record['skipped_sites'][0]}; --refit adds them"
        )
    if record["status"] == "nothing to do":
        click.echo("nothing to do: give --add, --remove or --refit")
        return
    click.echo(
        f"{record['status']}: version {record['version']}, {len(record['added'])} added, "
        f"{len(record['removed'])} removed, {count(len(record['adapters']), 'adapter')} at rank "
        f"{record['rank']} over {count(record['sites'], 'site')}, "
        f"{size(record['bytes_read'])} read in {record['seconds']:.1f} s\n"
        f"{_drift(record)}\n"
        f"output   {record['output']}\n"
        f"catalog  {record['catalog'] or '(none; give --catalog)'}\n"
        f"parent   {record['parent']}\n"
        f"merge    {record['merge_id']}"
    )
    print_counts(record["counts"], "added")


def _drift(record: Mapping[str, Any]) -> str:
    advice = f"above {record['refit_above']:g}: --refit is advised"
    if record["drift"] is None:
        return "drift    unknown, every rank had a separate cluster: --refit is advised"
    return f"drift    {ratio(record['drift'])}{f', {advice}' if record['refit_advised'] else ''}"


def _update(given: dict[str, Any], last: ExitStack) -> Mapping[str, Any]:
    given = options.given_of(given)
    runner = starting(given, last) if given["add"] or given["remove"] or given["refit"] else None
    from lego_ray.api.update import update as call

    if runner is None:
        for name in ("runner", *RUNNER_OPTIONS):
            given.pop(name, None)
        return call(given.pop("merge"), **given, runner="inline")
    from lego_ray.cli.progress import SiteProgress

    with SiteProgress() as progress:
        record = call(given.pop("merge"), **given, runner=runner, progress=progress)
    runner.close()
    return record
