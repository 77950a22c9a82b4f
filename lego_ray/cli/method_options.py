"""`--option NAME=VALUE`: the options of methods, typed as their home says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

import click
from click.shell_completion import CompletionItem

from lego_ray.errors import InvalidOption
from lego_ray.methods.names import MethodOptions
from lego_ray.options import Keyword, keywords_of, renamed

NAME = "option"
FLAG = f"--{NAME}"


LISTED = "`lego-ray methods NAME` lists the options of a method."


class _Pair(click.ParamType[tuple[str, Any]]):
    """NAME=VALUE, where NAME is an option of a method."""

    name = "pair"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Any]:
        """Reads the value as the option's type has it; the method checks its bounds."""
        if isinstance(value, tuple):
            return value
        word, equals, text = str(value).partition("=")
        known = keywords_of(MethodOptions)
        [name] = renamed(known, {word.strip().replace("-", "_"): None})
        if not equals or not text.strip():
            self.fail(f"{value!r} is not NAME=VALUE, such as n_init=20", param, ctx)
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"Did you mean {near[0]}? " if near else ""
            self.fail(f"{word!r} is not an option of a method. {hint}{LISTED}", param, ctx)
        try:
            return name, _read(known[name], text.strip())
        except ValueError:
            self.fail(f"{name}: {text!r} is not {_expected(known[name])}", param, ctx)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The names, and then the words of an option."""
        word, equals, begun = incomplete.partition("=")
        known = keywords_of(MethodOptions)
        if not equals:
            return [CompletionItem(f"{name}=") for name in known if name.startswith(word)]
        if word not in known:
            return []
        option = known[word].option
        words = option.choices or option.words
        return [CompletionItem(f"{word}={each}") for each in words if each.startswith(begun)]


def _collected(
    ctx: click.Context, param: click.Parameter, given: tuple[tuple[str, Any], ...]
) -> dict[str, Any] | None:
    found: dict[str, Any] = {}
    for name, value in given or ():
        if found.setdefault(name, value) != value:
            raise click.BadParameter(f"{name} is given {found[name]} and {value}", ctx, param)
    return found or None


method_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    FLAG,
    NAME,
    type=_Pair(),
    multiple=True,
    callback=_collected,
    metavar="NAME=VALUE",
    help="Option of the method; `lego-ray methods NAME` lists its options. Repeatable.",
)


def with_method_options(given: dict[str, Any], pairs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a command with the options of `--option` among them.

    Args:
        given: The arguments, without those that were not given.
        pairs: The options by name.

    Raises:
        BadParameter: If one is also given by its own flag, with another value.
    """
    for name, value in pairs.items():
        if given.get(name, value) != value:
            flag = keywords_of(MethodOptions)[name].flag
            raise click.BadParameter(
                f"{name} is given {value}, and {given[name]} by {flag}", param_hint=f"'{FLAG}'"
            )
    return {**given, **pairs}


def said_of_pair(error: InvalidOption, given: Mapping[str, Any]) -> InvalidOption:
    """An error about an option of a method in the words that the user gave it in.

    Args:
        error: The error, which names the option's own flag or its name.
        given: The parameters of the command.

    Returns:
        The error about `--option NAME`; the same error if it is about something else.
    """
    known = keywords_of(MethodOptions)
    name = next((n for n in given.get(NAME) or () if error.where in (n, known[n].flag)), None)
    if name is None:
        return error
    method = given.get("method") or "NAME"
    listed = f"`lego-ray methods {method}` lists the options of this method."
    near = f"{error.hint} " if error.hint.startswith("Did you mean") else ""
    return InvalidOption(
        f"{FLAG} {name}", error.problem, f"{near}{listed if method != 'NAME' else LISTED}"
    )


_SWITCHES = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def _read(keyword: Keyword, text: str) -> Any:
    """A value as text; ValueError if it is not of the option's type."""
    option, kind = keyword.option, keyword.annotation
    if kind == "bool":
        if text.lower() not in _SWITCHES:
            raise ValueError(text)
        return _SWITCHES[text.lower()]
    if option.choices or text in option.words:
        return text
    return int(text) if kind.startswith("int") else float(text)


def _expected(keyword: Keyword) -> str:
    option = keyword.option
    if keyword.annotation == "bool":
        return "true or false"
    number = "a whole number" if keyword.annotation.startswith("int") else "a number"
    return ", ".join((*option.words, "")) + f"or {number}" if option.words else number
