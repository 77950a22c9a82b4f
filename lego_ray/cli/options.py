"""Flags that several commands share, declared once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from lego_ray.cli.param_types import NumberOrAuto, OneOf, Place

Command = TypeVar("Command", bound=Callable[..., Any])


# Written out here, and held equal to where they are defined by a test, because those modules import
# torch or thread pools, which takes longer than all the rest of `lego-ray --help`.
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
    "ctm",
)
PRESETS = ("paper", "core-space", "iso", "rank-one")
DTYPES = ("majority", "F32", "BF16", "F16")
SCALE_RULES = ("source-norm", "sum-fit")
RUNNERS = ("ray", "inline")
CHECKPOINTS = ("last", "all")


def all_of(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, in the order `--help` shows them."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


sources = click.argument(
    "sources", nargs=-1, required=True, metavar="SOURCE...", type=Place("file")
)

as_json = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object and nothing else on stdout."
)

log = click.option(
    "--log",
    type=OneOf(("text", "json", "none")),
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

checkpoints = click.option(
    "--checkpoints",
    type=OneOf(CHECKPOINTS),
    default="last",
    show_default=True,
    help="Of a training run, take the final adapter or else the last checkpoint; or take every "
    "checkpoint as an adapter.",
)

library_checkpoints = click.option(
    "--checkpoints",
    type=OneOf(CHECKPOINTS),
    help="In place of the file's `checkpoints`: of a training run, take the last adapter or all.",
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
        "--catalog",
        required=True,
        type=Place(),
        metavar="URI",
        help="A directory or s3://bucket/prefix.",
    )(command)


catalog = click.option(
    "--catalog",
    type=Place(),
    metavar="URI",
    help="Record it in the catalog there; made if there is none.",
)


def _numbers(
    ctx: click.Context, param: click.Parameter, given: tuple[str, ...]
) -> dict[str, float]:
    """NAME=NUMBER pairs as a mapping."""
    found: dict[str, float] = {}
    for text in given:
        name, _, number = text.rpartition("=")
        try:
            value: float | None = float(number)
        except ValueError:
            value = None
        if not name or value is None:
            raise click.BadParameter(f"{text!r} is not NAME=NUMBER", ctx, param)
        if found.setdefault(name, value) != value:
            raise click.BadParameter(f"{name} is given {found[name]:g} and {value:g}", ctx, param)
    return found


def _scale(ctx: click.Context, param: click.Parameter, given: str | None) -> str | float | None:
    """A number, or the words of a rule, which the recipe knows."""
    if given is None:
        return None
    try:
        return float(given)
    except ValueError:
        return given


recipe = all_of(
    click.option(
        "--rank",
        type=NumberOrAuto(),
        metavar="K|auto",
        help="Rank of the merged adapter; auto for the smallest at which the nearest adapter to the "
        "sum of the updates, over all sites, is within --rank-error. Reads the adapters twice.",
    ),
    click.option(
        "--rank-error",
        type=float,
        metavar="E",
        help="For --rank auto: largest sqrt(sum_{i>K} s_i^2 / sum_i s_i^2), s the singular values of "
        "the sums of updates at all sites. [default: 0.3]",
    ),
    click.option(
        "--rank-budget",
        type=int,
        metavar="K",
        help="Instead of --rank: as many parameters as rank K at every site, each rank at the site "
        "where it lowers that error most. Implies --compact. Reads the adapters twice.",
    ),
    click.option("--name", metavar="N", help="Its name; by default the last part of the output."),
    click.option(
        "--preset",
        type=OneOf(PRESETS),
        help="Settles method, options and output scale. paper: LoRA-LEGO as published, the default. "
        "iso, core-space: what kept most of real tasks. rank-one: the most of it that tells where each "
        "rank went.",
    ),
    click.option(
        "--method",
        type=OneOf(METHODS),
        metavar="METHOD",
        help=f"How to merge: {', '.join(METHODS)}. [default: lego]",
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
        type=OneOf(DTYPES),
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
    checkpoints,
    click.option(
        "--weight",
        "weights",
        multiple=True,
        callback=_numbers,
        metavar="NAME=W",
        help="Factor on the update of adapters, by name, glob or URI; 0 leaves out. Repeatable.",
    ),
    click.option(
        "--output-scale",
        callback=_scale,
        metavar=f"[C|{'|'.join(SCALE_RULES)}]",
        help="Factor on the merged update, whatever the method. source-norm: each module as long as "
        "its sources' updates, in root mean square. sum-fit: as near to their sum as a factor brings "
        "it. Either may be multiplied: sum-fit*0.5. "
        "[default: 1]",
    ),
    click.option(
        "--site-scale",
        "site_scales",
        multiple=True,
        callback=_numbers,
        metavar="GLOB=C",
        help="Factor besides on modules, by name, last parts of it or glob. Repeatable.",
    ),
    click.option(
        "--compact",
        is_flag=True,
        help="Write true ranks with rank_pattern instead of padding to rank K.",
    ),
    click.option(
        "--updatable",
        is_flag=True,
        help="Keep running sums beside the adapter, from which lego-ray update makes later versions.",
    ),
    memory_budget,
)


def _run(runner: str, help: str) -> Callable[[Command], Command]:
    return all_of(
        click.option(
            "--runner",
            type=OneOf(RUNNERS),
            default=runner,
            show_default=True,
            help=help,
        ),
        click.option(
            "--address",
            default="local",
            show_default=True,
            metavar="ADDRESS",
            help="Where Ray is: local starts one, auto joins the running cluster, ray://...",
        ),
        click.option(
            "--workers", type=int, metavar="N", help="Most tasks at once. [default: CPUs]"
        ),
        click.option(
            "--gpus",
            type=float,
            default=0.0,
            metavar="G",
            help="Share of a GPU each task takes, such as 0.5. [default: 0]",
        ),
        strict,
    )


run = _run("ray", "Run on Ray, or in this process.")
# A plan starts no Ray unless it is told to.
plan_run = _run("inline", "With --errors: measure on Ray, or in this process.")
