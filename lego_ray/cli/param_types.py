"""What the values of flags may be: words, numbers, places. Of a wrong word the nearest is named."""

from __future__ import annotations

import math
from difflib import get_close_matches
from typing import Any

import click
from click.shell_completion import CompletionItem

from lego_ray.planning.options import AUTO


class OneOf(click.Choice[str]):
    """One of some words."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        """Names the words there are, and the one that may have been meant."""
        near = get_close_matches(str(value), list(self.choices), 1)
        said = super().get_invalid_choice_message(value, ctx)
        return f"{said} Did you mean {near[0]}?" if near else said


class Place(click.ParamType[str]):
    """A path or URI; shells complete local paths."""

    name = "text"

    def __init__(self, kind: str = "dir") -> None:
        """Takes what is completed: `dir` or `file`."""
        self.kind = kind

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Leaves it to the shell; of a URI it knows nothing."""
        return [] if "://" in incomplete else [CompletionItem(incomplete, type=self.kind)]


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
            number = float(value)
            if math.isfinite(number):
                return number
            self.fail(f"{value!r} is not a finite number", param, ctx)
        except (TypeError, ValueError):
            near = get_close_matches(str(value), self.words, 1)
            hint = f". Did you mean {near[0]}?" if near else ""
            said = f"{value!r} is not one of {', '.join(self.words)} or a number{hint}"
            self.fail(said, param, ctx)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The words that begin so."""
        return [CompletionItem(word) for word in self.words if word.startswith(incomplete)]


class Finite(click.types.FloatParamType):
    """A number, neither NaN nor infinite."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Takes text as a number."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


class RankOrRanks(click.ParamType[str | int | tuple[int, ...]]):
    """A whole number, several with commas between them, or `auto`."""

    name = "number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | int | tuple[int, ...]:
        """Takes `auto` as it is, one number as a number and several as a tuple."""
        if value == AUTO:
            return AUTO
        try:
            found = tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a whole number or {AUTO}; several are 8,16", param, ctx)
        return found if len(found) > 1 else found[0]

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """`auto`, if it begins so."""
        return [CompletionItem(AUTO)] if AUTO.startswith(incomplete) else []


class NumberOrAuto(click.ParamType[str | int]):
    """A whole number, or `auto`."""

    name = "number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | int:
        """Takes `auto` as it is and anything else as a number."""
        if value == AUTO:
            return AUTO
        try:
            return int(value)
        except (TypeError, ValueError):
            self.fail(f"{value!r} is not a whole number or {AUTO}", param, ctx)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """`auto`, if it begins so."""
        return [CompletionItem(AUTO)] if AUTO.startswith(incomplete) else []
