"""`lego-ray tune`: the best merge for a user's own data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from lego_ray.cli import options
from lego_ray.cli.command import command
from lego_ray.cli.defaults import without_default_catalog
from lego_ray.cli.interrupts import resumable
from lego_ray.cli.logs import QUARANTINED, shown
from lego_ray.cli.param_types import Place
from lego_ray.cli.printing import (
    count,
    print_json,
    print_refused,
    print_table,
    print_warning,
    visible,
)
from lego_ray.tuning.options import SearchOptions

_HOW_TO_GO_ON = "finished trials are kept; run the same command to continue"


@command()
@click.argument(
    "sources", nargs=-1, required=True, metavar="SOURCE...|RECIPE.yaml", type=Place("file")
)
@click.option(
    "--output",
    type=Place(),
    metavar="URI",
    help="Where to write the best merge. A recipe file may say it.",
)
@options.flags(SearchOptions)
@options.recipe
@options.catalog
@options.tune_run
@options.method
@options.log
@options.as_json
def tune(as_json: bool, log: str, **given: Any) -> None:
    """Find the best merge of the adapters under some sources for your own data.

    Merges them in many ways, scores each with your command, and publishes the best as merge would. The
    presets come first, then their norm, spectrum and method, then the weight of each adapter. Half of
    the rows choose; on the other half the best, adaptive and paper are scored once, at the end. Each
    trial is kept, so a run that was stopped goes on where it was. A recipe file with one merge and a
    section `tune` says the same; flags come before it.

    \b
    Examples:
      lego-ray tune ./zoo --rank 8 --score "./score.py {adapter}" --output ./m
      lego-ray tune ./zoo --rank 8 --score scoring:score --trials 16 --output ./m
      lego-ray tune ./zoo --rank 8 --score-texts t.jsonl --base ./lm --output ./m
      lego-ray tune recipe.yaml --trials 32
    """
    given = _of_recipe(given)
    with resumable(None, _HOW_TO_GO_ON), shown(log, QUARANTINED):
        from lego_ray.api.tune import tune as call
        from lego_ray.cli.progress import CountProgress

        with CountProgress("tune", "trial") as progress:
            record = call(**options.given_of(given), progress=progress)
    if as_json:
        print_json(record)
        return
    _print(record)


def _of_recipe(given: dict[str, Any]) -> dict[str, Any]:
    """The arguments, in which a recipe file's `catalog` comes before a default."""
    from lego_ray.planning.arguments import recipe_among

    recipe = recipe_among(given["sources"])
    if recipe is None:
        return given
    found = without_default_catalog({**given, "recipe": recipe})
    return {name: value for name, value in found.items() if name != "recipe"}


def _print(record: Mapping[str, Any]) -> None:
    for warning in record["warnings"]:
        print_warning(warning)
    print_refused(record["merge"]["refused"])
    best = record["best"]
    click.echo(
        f"{record['merge']['status']}: trial {best['trial']} of {count(record['trials'], 'trial')} "
        f"is the best, {best['value']:.6g}; {record['failed']} failed"
    )
    print_table(
        ("held-out rows", "score", "best is above by", "error"),
        (
            (name, *_scored(scores), *_apart(record["differences"].get(name)))
            for name, scores in record["report"].items()
        ),
    )
    for name, value in best["parameters"].items():
        if value is not None and name != "weights":
            click.echo(f"{name:<9} {value}")
    for uri, weight in best["parameters"]["weights"].items():
        click.echo(f"weight    {visible(uri)}={weight:g}")
    click.echo(
        f"output    {record['output']}\n"
        f"study     {record['study']}\n"
        f"catalog   {record['catalog'] or '(none; give --catalog)'}\n"
        f"merge     {record['merge']['merge_id']}"
    )


def _scored(scores: Mapping[str, Any]) -> tuple[str]:
    return (f"{scores['value']:.6g}",) if "value" in scores else (f"failed: {scores['reason']}",)


def _apart(difference: Mapping[str, Any] | None) -> tuple[str, str]:
    if difference is None:
        return "", ""
    error = difference["error"]
    return f"{difference['difference']:+.4g}", "unknown" if error is None else f"{error:.2g}"
