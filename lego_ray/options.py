"""What an option is. Each has one home, from which flags, recipe files, keywords and tables are made.

A home is a `TypedDict` whose keys are annotated with an `Option`: `planning.options` has those of a
recipe and of a run, `methods.names` those of the methods.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

from lego_ray.errors import InvalidOption


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a call or command.

    Attributes:
        help: What it does, for people: whole sentences, the first of which says all that is needed.
        default: What holds where it is not given.
        default_said: The default in words, where that is more than its value.
        flag: Its flag, where that is not `--` and the keyword.
        metavar: What stands for its value in `--help`.
        choices: The words that it may be, if it is one of a few.
        words: The words that it may be beside a number.
        at_least: Its smallest value.
        above: A bound that it is above.
        at_most: Its largest value.
        below: A bound that it is below.
        is_share: Whether above 1 it must be a whole number.
        former: The keyword that earlier releases had for it, which is still accepted.
    """

    help: str
    default: Any = None
    default_said: str = ""
    flag: str = ""
    metavar: str = ""
    choices: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    is_share: bool = False
    former: str = ""

    def flag_of(self, name: str) -> str:
        """Its flag, of its keyword."""
        return self.flag or f"--{name.replace('_', '-')}"

    @property
    def range(self) -> str:
        """Its bounds in words: `of at least 1`; empty if it has none."""
        said = (("of at least", self.at_least), ("above", self.above))
        more = (("at most", self.at_most), ("below", self.below))
        return " and ".join(
            f"{word} {bound}" for word, bound in (*said, *more) if bound is not None
        )

    def check(self, name: str, value: Any, *, is_whole: bool = False) -> None:
        """Holds a value of the right type against the choices or the bounds.

        Args:
            name: The option's keyword, for the error.
            value: The value; None, where an option may be None, is left to the caller.
            is_whole: Whether it must be a whole number.

        Raises:
            InvalidOption: If it is none of the choices, or out of bounds.
        """
        flag = self.flag_of(name)
        if self.choices:
            if value not in self.choices:
                known = ", ".join(self.choices)
                raise InvalidOption(flag, f"{value!r} is not one of {known}")
            return
        if not self.range or value in self.words:
            return
        kind = int if is_whole else int | float
        fits = isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)
        fits = (
            fits
            and (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
            and (not self.is_share or value <= 1 or value == int(value))
        )
        if fits:
            return
        if self.is_share:
            said = f"{value:g}" if isinstance(value, int | float) else repr(value)
            raise InvalidOption(flag, f"{said} is neither a share from 0 to 1 nor a whole number")
        number = f"a {'whole ' if is_whole else ''}number {self.range}"
        either = f"{', '.join(self.words)} or " if self.words else ""
        raise InvalidOption(flag, f"{value!r} is not {either}{number}")


@dataclass(frozen=True, slots=True)
class Keyword:
    """An option with the name and type that its home gives it.

    Attributes:
        name: Its keyword.
        annotation: Its type, as `arguments.CHECKS` spells it.
        option: The option.
    """

    name: str
    annotation: str
    option: Option

    @property
    def flag(self) -> str:
        """Its flag."""
        return self.option.flag_of(self.name)

    def check(self, value: Any) -> None:
        """Holds a value against the choices and the bounds; None passes where the type has it.

        Args:
            value: The value.

        Raises:
            InvalidOption: If it does not fit.
        """
        if value is None and self.annotation.endswith("| None"):
            return
        self.option.check(self.name, value, is_whole=self.annotation.startswith("int"))

    def check_number(self, value: Any) -> None:
        """Holds a number against the bounds; where words are possible too, that is left to the caller.

        Args:
            value: The value; one that is not a number passes.

        Raises:
            InvalidOption: If it is out of bounds.
        """
        if isinstance(value, int | float) and self.option.range and not self.option.words:
            self.check(value)


@cache
def keywords_of(home: type) -> Mapping[str, Keyword]:
    """The options that a home has, by name, in its order.

    Args:
        home: A `TypedDict` whose keys are `Annotated[type, Option(...)]`.
    """
    found = {}
    for name, hint in get_type_hints(home, include_extras=True).items():
        kind, option = get_args(hint)
        found[name] = Keyword(name, _spelled(kind), option)
    return found


def renamed(known: Mapping[str, Keyword], given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given, each under the option's keyword of now.

    Args:
        known: The options, by keyword.
        given: What was given, by keyword; others are left as they are.

    Raises:
        InvalidOption: If one is given under both of its keywords.
    """
    now = {each.option.former: name for name, each in known.items() if each.option.former}
    for former, name in now.items():
        if former in given and name in given:
            raise InvalidOption(
                former, f"it is the former name of {name}, which is also given", "Give one."
            )
    return {now.get(name, name): value for name, value in given.items()}


def picked(home: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a home: those that were given, and the defaults of the others.

    Args:
        home: As for `keywords_of`.
        given: What was given, of this home and others.
    """
    return {
        name: given.get(name, keyword.option.default) for name, keyword in keywords_of(home).items()
    }


def _spelled(kind: Any) -> str:
    """A type as it is written in a signature."""
    plain = isinstance(kind, type) and get_origin(kind) is None
    return kind.__name__ if plain else str(kind).replace("collections.abc.", "").replace("os.", "")
