"""`lego-ray plan`: what a merge would do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from lego_ray.amounts import size
from lego_ray.cli import options
from lego_ray.cli.command import command
from lego_ray.cli.param_types import Place
from lego_ray.cli.printing import (
    count,
    named_below,
    nearest,
    print_json,
    print_refused,
    print_set_aside,
    print_table,
    print_warning,
    rank_range,
)
from lego_ray.errors import BaseModelMismatch

if TYPE_CHECKING:
    from lego_ray.planning.plan import Plan


@command()
@options.sources
@click.option(
    "--output", type=Place(), metavar="URI", help="Where the merged adapter will be written."
)
@options.recipe
@click.option(
    "--errors",
    is_flag=True,
    help="Read the adapters too, and show how near an adapter of each rank can be to their sum.",
)
@options.catalog_option(
    "Where the merge would be recorded. A plan neither reads it nor writes to it."
)
@options.plan_run
@options.method
@options.as_json
def plan(as_json: bool, **given: Any) -> None:
    """Show what a merge would do, without doing it.

    Takes merge's flags, writes nothing, and without --errors reads headers only. With the same
    --output or --name, the plan's digest is the merge's id; where ranks are chosen by measuring,
    it is with --errors.

    \b
    Examples:
      lego-ray plan ./adapters --rank 16
      lego-ray plan ./adapters --rank 8,16,32
      lego-ray plan ./adapters --rank auto --errors
    """
    from lego_ray.api.plan import plan as call
    from lego_ray.cli.progress import SiteProgress

    given.pop("catalog")  # where it is recorded changes nothing that is planned
    if isinstance(given["rank"], tuple):
        _at_ranks(options.given_of(given), as_json=as_json)
        return
    try:
        with SiteProgress() as progress:
            made = call(**options.given_of(given), progress=progress)
    except BaseModelMismatch as error:
        if not as_json:
            _print_by_base(error.by_base)
        raise
    if as_json:
        print_json(made.as_json())
    else:
        _print(made)


def _at_ranks(given: dict[str, Any], *, as_json: bool) -> None:
    """Plans a merge at each of several ranks, and prints the plans."""
    from lego_ray.api.plan import plan_ranks as call

    if given.pop("errors"):
        raise click.UsageError("--errors shows the error at every rank: give one rank, or auto")
    given.pop("runner")
    try:
        sweep = call(ranks=given.pop("rank"), **given)
    except BaseModelMismatch as error:
        if not as_json:
            _print_by_base(error.by_base)
        raise
    if as_json:
        print_json(sweep.as_json())
        return
    first = sweep.plans[0]
    _print_adapters(first)
    for warning in dict.fromkeys(w for made in sweep.plans for w in made.warnings):
        print_warning(warning)
    click.echo()
    print_table(
        ("rank", "name", "sites", "arithmetic, s", "plan"),
        (
            (
                made.rank,
                made.recipe.name,
                made.n_sites,
                max(1, round(made.estimate.seconds)),
                made.digest,
            )
            for made in sweep.plans
        ),
    )
    click.echo(
        f"\n{_counts_of(first)}; "
        f"{size(sweep.read_bytes)} to read once for all ranks, at most {size(sweep.peak_bytes)} of "
        f"memory a worker\n{first.dtype}, base model {first.base_model or '(none named)'}"
    )


def _print_by_base(by_base: Mapping[str, Sequence[str]]) -> None:
    """What was found, where it is of several base models and none can be planned."""
    print_table(
        ("base model", "adapter"),
        ((name or "(none)", uri) for name, uris in by_base.items() for uri in uris),
    )
    click.echo()


def _print_adapters(made: Plan) -> None:
    """Lists the adapters that are taken, and what is not."""
    from lego_ray.planning.plan import set_aside

    of_several = len({a.base_model for a in made.adapters}) > 1
    adapters = sorted(made.adapters, key=lambda a: (a.base_model, a.uri))
    names = named_below([a.uri for a in adapters])
    print_table(
        (*["base model"] * of_several, "adapter", "rank", "sites", "size"),
        (
            (
                *[a.base_model or "(none)"] * of_several,
                name,
                rank_range(min(a.ranks), max(a.ranks)),
                len(a.sites),
                size(a.n_bytes),
            )
            for name, a in zip(names, adapters, strict=True)
        ),
    )
    print_set_aside({**set_aside(made.passed_over, made.adapters), "warnings": made.warnings})
    print_refused([each.as_json() for each in made.refused])


def _print(made: Plan) -> None:
    _print_adapters(made)
    for warning in made.warnings:
        print_warning(warning)
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
            for g in made.tasks
        ),
    )
    if made.errors:
        click.echo()
        print_table(
            ("rank", "error", "worst site", "its error"),
            ((e.rank, e.error, e.worst_site, e.worst_error) for e in made.errors),
        )
    at = f" at revision {made.base_revision}" if made.base_revision else ""
    click.echo(
        f"\n{_counts_of(made)}; "
        f"{count(made.n_sites, 'site')}, {count(made.n_msus, 'MSU')}, "
        f"{count(len(made.tasks), 'task')}; {size(made.read_bytes)} to read"
        f"{' to measure and again to merge' if made.recipe.is_open else ''}, at most "
        f"{size(made.peak_bytes)} of memory a worker\n"
        f"about {_time_of(made)}\n"
        f"rank {_rank_of(made)} {made.dtype}, base model {made.base_model or '(none named)'}{at}\n"
        f"plan {made.digest}"
    )


def _counts_of(plan: Plan) -> str:
    """How many adapters were found, and what becomes of them."""
    from lego_ray.planning.counts import Counts, said_of

    counts = plan.counts or Counts(len(plan.adapters), len(plan.refused))
    return said_of(counts.as_json())


def _time_of(plan: Plan) -> str:
    """What the arithmetic takes, and where `--runner auto` has it done."""
    estimate = plan.estimate
    where = "in this process" if estimate.runner == "inline" else "on a local Ray"
    seconds = max(1, round(estimate.seconds))
    return f"{seconds} s of arithmetic on one core, done {where} by --runner auto"


def _rank_of(plan: Plan) -> str:
    """The rank; or the smallest and largest, or how they are to be chosen."""
    if plan.recipe.is_open:
        return f"{plan.recipe.rank_asked} (chosen by measuring; --errors does it now)"
    ranks = [site.rank for task in plan.tasks for site in task.sites]
    return rank_range(min(ranks), max(ranks)) + nearest(plan.nearest_error)
