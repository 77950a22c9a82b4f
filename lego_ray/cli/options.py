"""Flags of the commands, made from the homes of the options; and those that only commands have."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from lego_ray.cli.defaults import CATALOG_VARIABLE
from lego_ray.cli.method_options import NAME as METHOD_OPTION
from lego_ray.cli.method_options import method_option, with_method_options
from lego_ray.cli.param_types import Finite, NumberOr, OneOf, Place, RankOrRanks
from lego_ray.methods.names import METHODS, MethodOptions, takers
from lego_ray.options import Keyword, keywords_of
from lego_ray.planning.options import (
    RUNNER_OPTIONS,
    RUNNERS,
    ResultOptions,
    RunOptions,
    SourceOptions,
    StrictOption,
    TagOptions,
)

Command = TypeVar("Command", bound=Callable[..., Any])


def all_of(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, in the order `--help` shows them."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def flags(
    home: type, names: Iterable[str] | None = None, *, hidden: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The flags of the options that a home has. One that is not given has the value None.

    Args:
        home: As for `options.keywords_of`.
        names: Those that are wanted; None for all.
        hidden: Whether `--help` leaves them out.
    """
    known = keywords_of(home)
    wanted = known if names is None else names
    return all_of(*(_flag(known[name], hidden) for name in wanted))


def given_of(given: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a command without the options that were not given, `--option` taken apart."""
    found = {name: value for name, value in given.items() if value is not None}
    pairs = found.pop(METHOD_OPTION, {})
    return with_method_options(found, pairs)


def _flag(keyword: Keyword, hidden: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    option, name = keyword.option, keyword.name
    told = _help(keyword)
    if keyword.annotation == "bool":
        both = option.default is False and takers(name)
        names = (name, option.former) if option.former else (name,)
        stems = [each.replace("_", "-") for each in names]
        spelled = [f"--{stem}/--no-{stem}" if both else f"--{stem}" for stem in stems]
        return click.option(*spelled, name, is_flag=True, default=None, help=told, hidden=hidden)
    more: dict[str, Any] = {"metavar": option.metavar or None, "hidden": hidden}
    if keyword.annotation.startswith("Mapping"):
        more |= {"multiple": True, "callback": _numbers}
    elif keyword.annotation.startswith("Sequence"):
        more |= {"multiple": True, "callback": _several}
    elif option.choices:
        more |= {"type": OneOf(option.choices)}
    elif keyword.annotation == "str | PathLike[str]":
        more |= {"type": Place()}
    elif keyword.annotation == "str | PathLike[str] | None":
        more |= {"type": Place("file")}
    elif keyword.annotation == "int | str | None":
        more |= {"type": RankOrRanks()}
    elif option.words:
        more |= {"type": NumberOr(*option.words)}
    elif keyword.annotation == "float | str | None":
        more |= {"callback": _scale}
    elif keyword.annotation.startswith("int") and "str" not in keyword.annotation:
        more |= {"type": int}
    elif keyword.annotation.startswith("float"):
        more |= {"type": Finite()}
    return click.option(keyword.flag, name, default=None, help=told, **more)


def _help(keyword: Keyword) -> str:
    """What it does, the methods that have it, and its default."""
    option = keyword.option
    of = takers(keyword.name)
    methods = "" if not of or of == ("lego",) else f"{', '.join(of)}: "
    text = f"{methods}{option.help}"
    if keyword.annotation.startswith(("Mapping", "Sequence")):
        text += " Repeatable."
    said = default_of(keyword)
    return f"{text} [default: {said}]" if said else text


def default_of(keyword: Keyword) -> str:
    """What holds where an option is not given, in words; empty for nothing."""
    option = keyword.option
    if option.default_said:
        return option.default_said
    others: dict[str, list[str]] = {}
    for name in takers(keyword.name):
        value = METHODS[name].options[keyword.name]
        if value is not None and value != option.default:
            others.setdefault(_said(value), []).append(name)
    told = [f"{value} for {', '.join(names)}" for value, names in others.items()]
    if told:
        return f"{'; '.join(told)}; else {_said(option.default)}"
    return _said(option.default)


def _said(value: object) -> str:
    if value is None or value == () or value == "":
        return ""
    if isinstance(value, bool):
        return "" if value is False else "yes"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _several(
    ctx: click.Context, param: click.Parameter, given: tuple[str, ...]
) -> tuple[str, ...] | None:
    return given or None


def _numbers(
    ctx: click.Context, param: click.Parameter, given: tuple[str, ...]
) -> dict[str, float] | None:
    """NAME=NUMBER pairs as a mapping."""
    found: dict[str, float] = {}
    for text in given or ():
        name, _, number = text.rpartition("=")
        try:
            value: float | None = float(number)
        except ValueError:
            value = None
        if not name or value is None:
            raise click.BadParameter(f"{text!r} is not NAME=NUMBER", ctx, param)
        if not math.isfinite(value):
            raise click.BadParameter(f"{text!r} has no finite number", ctx, param)
        if found.setdefault(name, value) != value:
            raise click.BadParameter(f"{name} is given {found[name]:g} and {value:g}", ctx, param)
    return found or None


def _scale(ctx: click.Context, param: click.Parameter, given: str | None) -> str | float | None:
    """A number, or the words of a rule, which the recipe knows."""
    if given is None:
        return None
    try:
        number = float(given)
    except ValueError:
        return given
    if not math.isfinite(number):
        raise click.BadParameter(f"{given!r} is not a finite number", ctx, param)
    return number


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
    help="Log events to stderr, as text or as one JSON object per line.",
)

selection = flags(SourceOptions)
tags = flags(TagOptions)
strict = flags(StrictOption)
checkpoints = flags(SourceOptions, ["checkpoints"])
scan_limits = flags(SourceOptions, ["scan_limits"])
memory_budget = flags(RunOptions, ["memory_budget"])
recipe = all_of(flags(ResultOptions), flags(SourceOptions), flags(RunOptions, ["memory_budget"]))
# The flags of methods are what earlier releases had; `--option` is what is shown.
method = all_of(method_option, flags(MethodOptions, hidden=True))

base = flags(ResultOptions, ["base"])
library_base = click.option(
    "--base",
    type=Place(),
    metavar="URI",
    help="Override the file's `base`: the base model, for adapters that are merged with it.",
)
library_checkpoints = click.option(
    "--checkpoints",
    type=OneOf(keywords_of(SourceOptions)["checkpoints"].option.choices),
    help="Override the file's `checkpoints`: use the last adapter of a training run, or all.",
)


def catalog_option(
    help: str, *, required: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`--catalog`, which the environment and the settings file may give.

    Args:
        help: What the command does with it.
        required: Whether there must be one.
    """
    return click.option(
        "--catalog",
        required=required,
        type=Place(),
        metavar="URI",
        envvar=CATALOG_VARIABLE,
        show_envvar=True,
        help=help,
    )


required_catalog = catalog_option("A directory or s3://bucket/prefix.", required=True)
catalog = catalog_option("Record it in this catalog; created if missing.")


def _run(runner: str, help: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return all_of(
        click.option(
            "--runner",
            type=OneOf(RUNNERS),
            default=runner,
            show_default=True,
            help=help,
        ),
        flags(RunOptions, RUNNER_OPTIONS),
        strict,
    )


run = _run(
    "auto",
    "Where the work is done. ray: on Ray. inline: without Ray, in this process and, if the work takes "
    "seconds, in others beside it. auto: on Ray if the work is long enough to be worth its start, or if "
    "--address, --workers, --max-workers, --wait or --gpus is given; else inline.",
)
# Of a search `max_workers` and `wait` mean nothing: it has as many workers as it is given.
tune_run = all_of(
    click.option(
        "--runner",
        type=OneOf(RUNNERS),
        default="auto",
        show_default=True,
        help="ray: trials beside each other on Ray. inline: in this process, one after another. auto: "
        "on Ray if --address, --workers or --gpus is given; else in this process.",
    ),
    flags(RunOptions, ("address", "workers", "gpus")),
    strict,
)
# A plan starts Ray only if it is asked to.
plan_run = _run("inline", "With --errors: measure on Ray, or in this process (inline).")
