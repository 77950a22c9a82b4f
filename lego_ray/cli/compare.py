"""`lego-ray compare`: merges side by side."""

from __future__ import annotations

from typing import Any

import click

from lego_ray.cli import options
from lego_ray.cli.command import Command
from lego_ray.cli.compare_table import print_comparison
from lego_ray.cli.merged import place_of
from lego_ray.cli.param_types import Finite, Place
from lego_ray.cli.printing import print_json, print_warning, visible

_SOURCES = "--sources"


class _Compare(Command):
    """A command whose `--sources` takes all words up to the next flag."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Gives each word after `--sources` the flag."""
        return super().parse_args(ctx, _flagged(args))


def _flagged(words: list[str]) -> list[str]:
    """The words of a command line, with `--sources` before each word that belongs to it."""
    out: list[str] = []
    is_source = False
    for word in words:
        if word == _SOURCES:
            is_source = True
        elif word.startswith("-"):
            is_source = False
            out.append(word)
        else:
            out += [_SOURCES, word] if is_source else [word]
    if words and words[-1] == _SOURCES:
        out.append(_SOURCES)  # click says that it lacks its value
    return out


@click.command(cls=_Compare)
@click.argument("merges", nargs=-1, required=True, metavar="MERGE MERGE...", type=Place())
@click.option(
    _SOURCES,
    multiple=True,
    type=Place("file"),
    metavar="SOURCE...",
    help="Source adapters, for exact errors and what each merge keeps of each adapter.",
)
@options.catalog_option(
    "Catalog with the merges, for their errors without --sources, and to look merges up in by their "
    "name or the first digits of their id."
)
@click.option(
    "--html",
    type=Place("file"),
    metavar="FILE",
    help="Write an HTML page too, with all modules; an older page is replaced.",
)
@click.option(
    "--score",
    metavar="COMMAND",
    help="Score each merge by a command that prints a line of JSON with `score` and, if it has them, "
    "`tasks`; {adapter} in it is the merge's directory.",
)
@click.option(
    "--score-timeout",
    type=Finite(),
    metavar="SECONDS",
    help="Most time for scoring one merge. [default: 3600]",
)
@options.base
@options.memory_budget
@options.as_json
def compare(as_json: bool, **given: Any) -> None:
    """Compare published merges: settings, norms, errors and how alike their updates are.

    Prints the settings of recipes that differ, the norm of each merged update, the cosines between
    the updates, and, with --sources or --catalog, the errors. With --sources also the share that each
    merge keeps of each adapter. Name the merges before --sources.

    \b
    Examples:
      lego-ray compare out/rank-8 out/rank-16 --catalog ./catalog
      lego-ray compare out/svd out/lego --sources ./adapters --html page.html
      lego-ray compare out/svd out/lego --score "python score.py {adapter}"
    """
    from lego_ray.api.compare import compare as call
    from lego_ray.cli.progress import CountProgress

    given["merges"] = tuple(place_of(merge, given["catalog"]) for merge in given["merges"])
    with CountProgress("compare", "site") as progress:
        record = call(**options.given_of(given), progress=progress)
    if as_json:
        print_json(record)
        return
    for warning in record["warnings"]:
        print_warning(warning)
    print_comparison(record)
    if not (given["sources"] or given["catalog"]):
        click.echo("\ngive --sources or --catalog for the errors of the merges")
    if record["page"]:
        click.echo(f"\npage   {visible(record['page'])}")
