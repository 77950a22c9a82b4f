"""What all commands share: `--debug`, and sections of `--help`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import click

from lego_ray.cli.defaults import default_values, with_origin
from lego_ray.cli.method_options import said_of_pair
from lego_ray.errors import InvalidOption
from lego_ray.options import keywords_of
from lego_ray.planning.options import RUNNER_OPTIONS
from lego_ray.tuning.options import SearchOptions

# Options by the section of `--help` they stand in; any other stands in the last, Options.
SECTIONS = {
    "What is searched": tuple(keywords_of(SearchOptions)),
    "What is merged": ("exclude", "weights", "only_base", "base_model", "full_weights", "strict"),
    "How": (
        "preset",
        "method",
        "option",
        "rank",
        "rank_error",
        "rank_budget",
        "seed",
        "spectrum",
        "output_scale",
        "site_scales",
    ),
    "Where it goes": ("output", "name", "catalog", "dtype", "layout", "compact", "updatable"),
    "Where it runs": ("runner", *RUNNER_OPTIONS, "memory_budget"),
}
_PLACED = frozenset(name for names in SECTIONS.values() for name in names)
# Fewer options than this are found at a glance; of more, `--help` has the first sentence of each.
LONG = 16
# What stays of a help text beside its first sentence.
_KEPT = re.compile(r" (?:Repeatable\.|\[default: .*\])")

# Options that `--help` of a long command leaves to `--help-all`.
RARE = frozenset(
    [
        *("base_model", "full_weights", "strict", "rank_error", "rank_budget", "seed", "spectrum"),
        *("output_scale", "site_scales", "dtype", "layout", "compact", "updatable", "address"),
        *(
            "max_workers",
            "wait",
            "gpus",
            "name",
            "checkpoints",
            "scan_limits",
            "log",
            "objective",
            "task_weights",
            "study",
            "time_limit_per_trial",
        ),
    ]
)
# A flag with more values than a line of the brief help has room for.
_LONG_CHOICE = re.compile(r"(--[\w-]+) \[[^\]]{30,}\]")
_ALL = "lego_ray.help_all"
ALL_FLAG = "--help-all"


def _show_all(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        ctx.meta[_ALL] = True
        click.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()


_HELP_ALL = click.Option(
    [ALL_FLAG],
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_all,
    help="Show this message with all options.",
)
_DEBUG = click.Option(
    ["--debug"],
    is_flag=True,
    expose_value=False,  # `main` looks for it, as it must after an error of parsing too
    help="Show the trace of an error.",
)


class Command(click.Command):
    """A command with `--debug` and defaults of the user's; many options are short, and in sections."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses its words, with what the environment and the settings file say."""
        # Help is given whatever the file holds.
        if not {*ctx.help_option_names, ALL_FLAG} & set(args):
            default_values(ctx)
        try:
            return super().parse_args(ctx, args)
        except click.BadParameter as error:
            raise with_origin(ctx, error) from None

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Its own options, `--debug`, `--help-all` where `--help` leaves some out, and `--help`."""
        found = _with_debug(super().get_params(ctx))
        return [*found[:-1], _HELP_ALL, found[-1]] if _rare(found) else found

    def invoke(self, ctx: click.Context) -> Any:
        """Runs it; an error about an option that was given by `--option` says so."""
        try:
            return super().invoke(ctx)
        except InvalidOption as error:
            said = said_of_pair(error, ctx.params)
            if said is error:
                raise
            raise said from error

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes its options by section."""
        options = [p for p in self.get_params(ctx) if isinstance(p, click.Option)]
        if len(options) < LONG:
            super().format_options(ctx, formatter)
            return
        rare = [] if ctx.meta.get(_ALL) else _rare(options)
        options = [option for option in options if option not in rare]
        others = [option for option in options if option.name not in _PLACED]
        by_name = {option.name: option for option in options}
        for title, names in SECTIONS.items():
            mine = [by_name[name] for name in names if name in by_name]
            _write(title, mine, ctx, formatter, is_brief=bool(rare))
        _write("Options", others, ctx, formatter, is_brief=bool(rare))
        formatter.write_paragraph()
        more = f"{len(rare)} more with {ALL_FLAG}. " if rare else ""
        formatter.write_text(f"{more}docs/command-line.md says more of each option.")


class Group(click.Group):
    """A group of commands with `--debug`."""

    command_class = Command
    group_class = type

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Its own options, `--debug` and `--help`."""
        return _with_debug(super().get_params(ctx))

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order they were added, which is about the one they are used in."""
        return list(self.commands)


def command(name: str | None = None) -> Callable[[Callable[..., Any]], Command]:
    """Makes a function a command, as `click.command` does."""
    return click.command(name, cls=Command)


def _write(
    title: str,
    options: Sequence[click.Option],
    ctx: click.Context,
    formatter: click.HelpFormatter,
    *,
    is_brief: bool = False,
) -> None:
    records = [
        _short(option, *record) for option in options if (record := option.get_help_record(ctx))
    ]
    if is_brief:
        records = [(_LONG_CHOICE.sub(_name_of_value, flag), text) for flag, text in records]
    if records:
        with formatter.section(title):
            formatter.write_dl(records)


def _name_of_value(found: re.Match[str]) -> str:
    return f"{found[1]} {found[1].removeprefix('--').replace('-', '_').upper()}"


def _short(option: click.Option, flag: str, text: str) -> tuple[str, str]:
    """A line of help with the first sentence of its text, and what click puts after it."""
    whole = option.help or ""
    first = re.split(r"(?<=\.)\s", whole, maxsplit=1)[0]
    kept = "".join(found for found in _KEPT.findall(whole) if found.strip() not in first)
    return flag, text.replace(whole, first + kept, 1)


def _rare(params: Sequence[click.Parameter]) -> list[click.Parameter]:
    """The options that `--help` leaves out: those rarely used, of a command with many."""
    shown = [p for p in params if isinstance(p, click.Option) and not p.hidden]
    return [p for p in shown if p.name in RARE] if len(shown) >= LONG else []


def _with_debug(params: list[click.Parameter]) -> list[click.Parameter]:
    """Before `--help`, which click puts last."""
    return [*params[:-1], _DEBUG, *params[-1:]]
