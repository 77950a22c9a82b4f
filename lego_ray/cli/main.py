"""`lego-ray`: the command line."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from lego_ray import __version__
from lego_ray.cli import method_options, options, upkeep
from lego_ray.cli.catalog import catalog
from lego_ray.cli.errors import print_errors
from lego_ray.cli.interrupts import resumable
from lego_ray.cli.library import build
from lego_ray.cli.logs import shown
from lego_ray.cli.printing import count, print_json, print_refused, print_table, ratio, size
from lego_ray.cli.publish import publish
from lego_ray.cli.refresh import refresh
from lego_ray.cli.report import report
from lego_ray.cli.running import starting
from lego_ray.cli.status import status
from lego_ray.errors import LegoRayError

if TYPE_CHECKING:
    from lego_ray.planning.plan import Plan

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(context_settings=_CONTEXT)
@click.version_option(__version__, prog_name="lego-ray")
def cli() -> None:
    """Merge zoos of LoRA adapters, and keep a catalog of what went where.

    A SOURCE is a directory (an adapter, or a tree of them), a weights file, s3://bucket/prefix, or
    hf://owner/name[@revision].

    \b
    Examples:
      lego-ray plan  ./adapters --rank 16
      lego-ray merge ./adapters --rank 16 --output ./merged --catalog ./catalog
      lego-ray catalog sql "SELECT name, rank, output_uri FROM merges" --catalog ./catalog
    """


@cli.command()
@options.sources
@options.catalog
@options.exclude
@options.full_weights
@options.strict
@options.as_json
def scan(as_json: bool, **given: Any) -> None:
    """Index adapters from their headers alone.

    \b
    Example:
      lego-ray scan s3://zoo/adapters --catalog s3://zoo/catalog
    """
    from lego_ray.execution import api

    record = api.scan(**given)
    if as_json:
        print_json(record)
        return
    print_table(
        ("adapter", "format", "rank", "sites", "size", "base model"),
        (
            (
                a["uri"],
                a["format"],
                _ranks(a["rank_min"], a["rank_max"]),
                a["n_sites"],
                size(a["n_bytes"]),
                a["base_model"],
            )
            for a in record["adapters"]
        ),
    )
    print_refused(record["refused"])
    click.echo(
        f"{count(len(record['adapters']), 'adapter')}, {len(record['refused'])} left out, "
        f"{size(record['bytes_read'])} read in {record['seconds']:.1f} s"
    )
    if record["catalog"]:
        click.echo(f"catalog  {record['catalog']}  ({count(record['new'], 'new row')})")


@cli.command()
@options.sources
@click.option("--output", metavar="URI", help="Where the merged adapter will be written.")
@options.recipe
@click.option(
    "--errors",
    is_flag=True,
    help="Read the adapters too, and show how near an adapter of each rank can be to their sum.",
)
@options.catalog
@options.plan_run
@method_options.method
@options.as_json
def plan(as_json: bool, **given: Any) -> None:
    """Show what a merge would do, without doing it.

    Takes merge's flags, writes nothing, and without --errors reads headers only. With the same
    --output or --name, the plan's digest is the merge's id; where ranks are chosen by measuring,
    it is with --errors.

    \b
    Examples:
      lego-ray plan ./adapters --rank 16
      lego-ray plan ./adapters --rank auto --errors
    """
    from lego_ray.cli.progress import SiteProgress
    from lego_ray.execution import api

    method = method_options.taken(given)
    given.pop("catalog")  # where it is recorded changes nothing that is planned
    with SiteProgress() as progress:
        made = api.plan(**given, **method, progress=progress)
    if as_json:
        print_json(made.as_json())
        return
    print_table(
        ("adapter", "rank", "sites", "size"),
        (
            (a.uri, _ranks(min(a.ranks), max(a.ranks)), len(a.sites), size(a.n_bytes))
            for a in made.adapters
        ),
    )
    for adapter in made.adapters:
        for note in adapter.notes:
            click.echo(f"note      {adapter.uri}\n          {note}")
    print_refused([{"adapter": r.uri, "reason": r.reason} for r in made.refused])
    for warning in made.warnings:
        click.echo(f"warning   {warning}")
    click.echo()
    print_table(
        ("task", "sites", "route", "shards", "read", "memory"),
        (
            (
                g.name,
                len(g.sites),
                g.routes,
                len(g.shards) or "",
                size(g.read_bytes),
                size(g.peak_bytes),
            )
            for g in made.groups
        ),
    )
    if made.errors:
        click.echo()
        print_table(
            ("rank", "error", "worst site", "its error"),
            ((e.rank, e.error, e.worst_site, e.worst_error) for e in made.errors),
        )
    click.echo(
        f"\n{count(len(made.adapters), 'adapter')} taken, {len(made.refused)} left out; "
        f"{count(made.n_sites, 'site')}, {count(made.n_msus, 'MSU')}, "
        f"{count(len(made.groups), 'task')}; {size(made.read_bytes)} to read"
        f"{' to measure and again to merge' if made.recipe.is_open else ''}, at most "
        f"{size(made.peak_bytes)} of memory a worker\n"
        f"rank {_rank_of(made)} {made.dtype}, base model {made.base_model or '(none named)'}\n"
        f"plan {made.digest}"
    )


@cli.command()
@options.sources
@click.option("--output", required=True, metavar="URI", help="Where to write the merged adapter.")
@options.recipe
@options.catalog
@options.run
@method_options.method
@options.log
@options.as_json
def merge(as_json: bool, log: str, **given: Any) -> None:
    """Merge the adapters under some sources into one.

    Writes a directory in the layout the sources came in, PEFT's for mlx-lm's; the file that makes it
    an adapter is last. Nothing is ever overwritten: run again, the same merge is left as it is.
    Finished tasks are kept beside the output until then, so a run that was stopped goes on where it
    was.

    \b
    Example:
      lego-ray merge ./adapters --rank 16 --output ./merged --catalog ./catalog
    """
    with resumable(given["output"]) as last, shown(log):
        record = _merge(given, last)
    if as_json:
        print_json(record)
        return
    for warning in record["warnings"]:
        click.echo(f"warning   {warning}")
    print_refused(record["refused"])
    click.echo(
        f"{record['status']}: {count(len(record['adapters']), 'adapter')} merged at rank "
        f"{_merged_rank(record)} over {count(record['sites'], 'site')}, "
        f"{size(record['bytes_read'])} read in {record['seconds']:.1f} s\n"
        f"output   {record['output']}\n"
        f"catalog  {record['catalog'] or '(none; give --catalog)'}\n"
        f"merge    {record['merge_id']}"
    )


@cli.command()
@click.argument("merged", metavar="MERGED_URI")
@click.option(
    "--sources",
    multiple=True,
    metavar="SOURCE...",
    help="Adapters it was made from, to compute the exact errors.",
)
@click.argument("more_sources", nargs=-1, metavar="")
@options.memory_budget
@options.as_json
def verify(
    as_json: bool, sources: tuple[str, ...], more_sources: tuple[str, ...], **given: Any
) -> None:
    """Check a merged adapter against its manifest and its sources.

    With --sources, says how far it is from the sum and the weighted mean of their updates, and how much
    of each source's update it keeps, <merged, source> / |source|^2: overall and, in --json, by module.

    \b
    Example:
      lego-ray verify ./merged --sources ./adapters
    """
    from lego_ray.execution import api

    if more_sources and not sources:
        raise click.UsageError(f"unexpected {more_sources[0]!r}; name sources with --sources")
    record = api.verify(**given, sources=(*sources, *more_sources))
    if as_json:
        print_json(record)
        return
    click.echo(
        f"ok: {', '.join(record['files'])} are as published; rank {record['rank']}, "
        f"{count(record['sites'], 'site')}, {count(record['sources'], 'source')}\n"
        f"merge {record['merge_id']}"
    )
    if record["errors"]:
        print_errors(record["errors"])
    else:
        click.echo("give --sources to have the errors against the source adapters computed")


cli.add_command(build)
cli.add_command(publish)
cli.add_command(report)
cli.add_command(refresh)
cli.add_command(status)
cli.add_command(catalog)
for command in upkeep.COMMANDS:
    catalog.add_command(command)


def main(
    command: click.Command = cli,
    prog_name: str | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """Runs the command line: exit 0 done, 1 the run failed, 2 bad input.

    Args:
        command: The command of this program.
        prog_name: What it is called, if not as it was started.
        defaults: Values of its options, by parameter, where they are not given.
    """
    about: dict[str, Any] = {} if defaults is None else {"default_map": defaults}
    try:
        command.main(prog_name=prog_name, standalone_mode=False, **about)
    except LegoRayError as error:
        click.echo(f"{type(error).__name__}: {error}", err=True)
        sys.exit(error.exit_code)
    except click.UsageError as error:
        called = error.ctx.command_path if error.ctx else "lego-ray"
        click.echo(f"{error.format_message()}\nSee `{called} --help`.", err=True)
        sys.exit(2)
    except click.ClickException as error:
        click.echo(error.format_message(), err=True)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)


def _merge(given: dict[str, Any], last: ExitStack) -> dict[str, Any]:
    from lego_ray.planning.rank_options import asked_rank

    asked_rank(given["rank"], given["rank_error"], given["rank_budget"])  # before Ray is started
    runner = starting(given, last)
    from lego_ray.cli.progress import SiteProgress
    from lego_ray.execution import api

    method = method_options.taken(given)
    with SiteProgress() as progress:
        record = api.merge(**given, **method, runner=runner, progress=progress)
    runner.close()
    return record


def _merged_rank(record: dict[str, Any]) -> str:
    ranks = record["ranks"].values() if record["ranks"] else [record["rank"]]
    return _ranks(min(ranks), max(ranks)) + _near(record["nearest_error"])


def _rank_of(plan: Plan) -> str:
    """The rank; or the smallest and largest, or how they are to be chosen."""
    if plan.recipe.is_open:
        return f"{plan.recipe.rank_asked} (chosen by measuring; --errors does it now)"
    ranks = [site.rank for group in plan.groups for site in group.sites]
    return _ranks(min(ranks), max(ranks)) + _near(plan.nearest_error)


def _near(error: float | None) -> str:
    return "" if error is None else f" (the nearest adapter has error {ratio(error)})"


def _ranks(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}-{high}"
