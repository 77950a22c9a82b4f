"""What all commands share: `--debug`, and sections of `--help`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import click

from lego_ray.cli.defaults import default_values, with_origin
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
        if not set(ctx.help_option_names) & set(args):  # help is given whatever the file holds
            default_values(ctx)
        try:
            return super().parse_args(ctx, args)
        except click.BadParameter as error:
            raise with_origin(ctx, error) from None

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Its own options, `--debug` and `--help`."""
        return _with_debug(super().get_params(ctx))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes its options by section."""
        options = [p for p in self.get_params(ctx) if isinstance(p, click.Option)]
        if len(options) < LONG:
            super().format_options(ctx, formatter)
            return
        others = [option for option in options if option.name not in _PLACED]
        by_name = {option.name: option for option in options}
        for title, names in SECTIONS.items():
            _write(title, [by_name[name] for name in names if name in by_name], ctx, formatter)
        _write("Options", others, ctx, formatter)
        formatter.write_paragraph()
        formatter.write_text("docs/command-line.md says more of each option.")


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
) -> None:
    records = [
        _short(option, *record) for option in options if (record := option.get_help_record(ctx))
    ]
    if records:
        with formatter.section(title):
            formatter.write_dl(records)


def _short(option: click.Option, flag: str, text: str) -> tuple[str, str]:
    """A line of help with the first sentence of its text, and what click puts after it."""
    whole = option.help or ""
    first = re.split(r"(?<=\.)\s", whole, maxsplit=1)[0]
    kept = "".join(found for found in _KEPT.findall(whole) if found.strip() not in first)
    return flag, text.replace(whole, first + kept, 1)


def _with_debug(params: list[click.Parameter]) -> list[click.Parameter]:
    """Before `--help`, which click puts last."""
    return [*params[:-1], _DEBUG, *params[-1:]]
