"""Flags that several commands share, declared once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from lego_ray.execution.runner import RUNNERS

Command = TypeVar("Command", bound=Callable[..., Any])


# Written out here, and held equal to where they are defined by a test, because those modules import
# torch, which takes longer than all the rest of `lego-ray --help`.
METHODS = (
    "lego",
    "concat",
    "linear",
    "svd",
    "ties",
    "dare_linear",
    "dare_ties",
    "magnitude_prune",
    "tsv",
    "iso",
    "core_space",
    "knots",
)
DTYPES = ("majority", "F32", "BF16", "F16")
DISTANCES = ("euclidean", "rank-one")
BASES = ("raw", "svd")
PARAMETER_NORMS = ("inf", "l2", "none")
ELECTIONS = ("total", "frequency")


class NumberOr(click.ParamType[str | float]):
    """One of some words, or a number."""

    name = "choice"

    def __init__(self, *words: str) -> None:
        self.words = words

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Shows the choices in `--help`."""
        return f"[{'|'.join(self.words)}|NUMBER]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | float:
        """Takes a word as it is and anything else as a number."""
        if value in self.words:
            return str(value)
        try:
            return float(value)
        except (TypeError, ValueError):
            self.fail(f"{value!r} is not one of {', '.join(self.words)} or a number", param, ctx)


def _all(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


sources = click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")

as_json = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object and nothing else on stdout."
)

log = click.option(
    "--log",
    type=click.Choice(("text", "json", "none")),
    default="none",
    show_default=True,
    help="Say on stderr what happens, as text or one JSON object a line.",
)

strict = click.option("--strict", is_flag=True, help="Fail if any adapter is refused.")

full_weights = click.option(
    "--full-weights",
    default="refuse",
    show_default=True,
    metavar="[refuse|drop|keep:NAME]",
    help="For adapters with modules_to_save or biases: refuse them, drop those weights, or keep "
    "the ones of the adapter called NAME.",
)

exclude = click.option(
    "--exclude",
    multiple=True,
    metavar="GLOB",
    help="Leave out adapters whose name, path below its source or URI matches. Repeatable.",
)

memory_budget = click.option(
    "--memory-budget",
    default="4GiB",
    show_default=True,
    metavar="SIZE",
    help="Most memory one worker may take.",
)


def required_catalog(command: Command) -> Command:
    """`--catalog`, for the commands that only read one."""
    return click.option(
        "--catalog", required=True, metavar="URI", help="A directory or s3://bucket/prefix."
    )(command)


catalog = click.option(
    "--catalog", metavar="URI", help="Record it in the catalog there; made if there is none."
)


def _weights(
    ctx: click.Context, param: click.Parameter, given: tuple[str, ...]
) -> dict[str, float]:
    """NAME=W pairs as a mapping."""
    found: dict[str, float] = {}
    for text in given:
        name, _, number = text.rpartition("=")
        try:
            weight: float | None = float(number)
        except ValueError:
            weight = None
        if not name or weight is None:
            raise click.BadParameter(f"{text!r} is not NAME=NUMBER", ctx, param)
        if found.setdefault(name, weight) != weight:
            raise click.BadParameter(f"{name} is given {found[name]:g} and {weight:g}", ctx, param)
    return found


recipe = _all(
    click.option(
        "--rank", type=int, required=True, metavar="K", help="Rank of the merged adapter."
    ),
    click.option("--name", metavar="N", help="Its name; by default the last part of the output."),
    click.option(
        "--method",
        type=click.Choice(METHODS),
        default="lego",
        show_default=True,
        help="How to merge.",
    ),
    click.option(
        "--seed",
        type=int,
        default=0,
        show_default=True,
        metavar="S",
        help="Fixes everything random.",
    ),
    click.option(
        "--dtype",
        type=click.Choice(DTYPES),
        default="majority",
        show_default=True,
        help="Element type to write.",
    ),
    click.option(
        "--base-model",
        default="",
        metavar="NAME",
        help="Name of the base model, where the sources disagree on it.",
    ),
    full_weights,
    exclude,
    click.option(
        "--weight",
        "weights",
        multiple=True,
        callback=_weights,
        metavar="NAME=W",
        help="Factor on the update of adapters, by name, glob or URI; 0 leaves out. Repeatable.",
    ),
    click.option(
        "--output-scale",
        type=float,
        default=1.0,
        show_default=True,
        metavar="C",
        help="Factor on the merged update, whatever the method.",
    ),
    click.option(
        "--compact",
        is_flag=True,
        help="Write true ranks with rank_pattern instead of padding to rank K.",
    ),
    memory_budget,
)


def method(command: Command) -> Command:
    """Options of the methods; one left out keeps the method's default, one it has not is refused."""
    return _all(
        click.option(
            "--density",
            type=float,
            metavar="D",
            help="ties, knots, core_space, dare_*, magnitude_prune: share of entries that stay. "
            "[default: 0.5 for dare_* and magnitude_prune, else 0.2]",
        ),
        click.option(
            "--election",
            type=click.Choice(ELECTIONS),
            help="ties, knots, core_space, dare_ties: an entry's sign by total or by frequency. "
            "[default: total]",
        ),
        click.option("--n-init", type=int, metavar="N", help="Restarts of k-means. [default: 10]"),
        click.option(
            "--max-iter", type=int, metavar="N", help="Most steps of a restart. [default: 300]"
        ),
        click.option(
            "--tol",
            type=float,
            metavar="T",
            help="Relative gain in inertia at which a restart stops. [default: 1e-6]",
        ),
        click.option(
            "--normalise/--no-normalise",
            default=None,
            help="Cluster [a/|a| ; b/|b|] instead of [a ; b]. [default: no]",
        ),
        click.option(
            "--parameter-reweight",
            type=click.Choice(PARAMETER_NORMS),
            help="Norm that centroids get back from their members. [default: inf]",
        ),
        click.option(
            "--output-reweight",
            type=NumberOr("source-rank", "pool", "none"),
            help="Scale of the merged update: sqrt(r/k), sqrt(n/k), 1, or a number. "
            "[default: source-rank]",
        ),
        click.option(
            "--distance",
            type=click.Choice(DISTANCES),
            help="What is clustered: MSUs as vectors, or the updates b a^T. [default: euclidean]",
        ),
        click.option(
            "--basis",
            type=click.Choice(BASES),
            help="Ranks as trained, or each adapter's singular basis. [default: raw]",
        ),
        click.option(
            "--balance/--no-balance",
            default=None,
            help="Rescale each MSU so that |a| = |b|. [default: no]",
        ),
        click.option(
            "--align-signs/--no-align-signs",
            default=None,
            help="Flip MSUs so that the largest entry of a is positive. [default: no]",
        ),
    )(command)


METHOD_OPTIONS = (
    "density",
    "election",
    "n_init",
    "max_iter",
    "tol",
    "normalise",
    "parameter_reweight",
    "output_reweight",
    "distance",
    "basis",
    "balance",
    "align_signs",
)

run = _all(
    click.option(
        "--runner",
        type=click.Choice(RUNNERS),
        default="ray",
        show_default=True,
        help="Run on Ray, or in this process.",
    ),
    click.option(
        "--address",
        default="local",
        show_default=True,
        metavar="ADDRESS",
        help="Where Ray is: local starts one, auto joins the running cluster, ray://...",
    ),
    click.option("--workers", type=int, metavar="N", help="Most tasks at once. [default: CPUs]"),
    click.option(
        "--gpus",
        type=float,
        default=0.0,
        metavar="G",
        help="Share of a GPU each task takes, such as 0.5. [default: 0]",
    ),
    strict,
)


def method_options(given: dict[str, Any]) -> dict[str, Any]:
    """Takes the method's options that were given out of a command's arguments."""
    taken = {name: given.pop(name) for name in METHOD_OPTIONS}
    return {name: value for name, value in taken.items() if value is not None}
