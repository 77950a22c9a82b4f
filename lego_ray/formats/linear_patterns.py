r"""Expressions matched in time linear in a path, where Python's matcher could take exponential time.

Python's matcher goes back over its choices. pydantic-core, which reads every configuration here, has
Rust's `regex`: it follows all choices at once, and its automaton has a bounded size. Both give the same
answer to whether an expression matches a whole text, if the expression means the same to both. Others
are not matched here: Rust's has no lookaround and no backreferences, and reads some classes, escapes
and repeats in another way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from functools import lru_cache

from pydantic_core import SchemaError, SchemaValidator
from pydantic_core.core_schema import str_schema

# Unsloth's, which lists the words of all kinds of models, have some 700 characters.
MAX_CHARS = 20_000
# States of the automaton times characters of all paths: in the worst case each pair is a step, of which
# it makes some 10^8 a second.
MAX_STEPS = 10**9

TOKEN = re.compile(
    r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{\d*,?\d*\}|\(\?P?<\w+>|\(\?P=\w+\)|\(\?<?[:=!>]|\(\?.|\(|.",
    re.DOTALL,
)
_REPEAT = re.compile(r"[*+?]|\{\d+,?\d*\}")
# What Rust's reads as an operation on sets, or as a set within a set.
_SETS = re.compile(r"&&|--|~~|\[")
# The start and the end of a word to Rust's, and plain characters to Python's; and what matches in an
# empty text to Rust's, and to Python's from 3.14 on.
_OTHERWISE = ("\\<", "\\>", "\\B")
# A class of all scripts becomes this many states in UTF-8, at most; one of few characters much less.
_OF_SCRIPTS = 1000
_OF_CLASS = 12


def linear_matcher(expression: str, paths: Collection[str]) -> Callable[[str], bool] | None:
    """Whether a whole path matches an expression, as a function.

    Args:
        expression: One that Python's `re` compiles.
        paths: The paths that it will be matched with, or others of their length.

    Returns:
        The function; None if the expression may mean something else to Rust's matcher, or would take
        too long.
    """
    if not all(path.isascii() and path.isprintable() for path in paths):
        return None  # letters, digits and line ends of all scripts are not the same to both
    states = _states(expression) if len(expression) <= MAX_CHARS else None
    if states is None or states * sum(map(len, paths)) > MAX_STEPS:
        return None
    matcher = _automaton(expression)
    return None if matcher is None else matcher.isinstance_python


def _states(expression: str) -> int | None:
    """Most states of the automaton, roughly; None if the expression may mean something else to it."""
    total, times = 0, 1
    previous = ""
    for token in TOKEN.findall(expression):
        if _REPEAT.fullmatch(token):
            if token == "+" and _REPEAT.fullmatch(previous):
                return None  # never gives back what it took
            times *= max([1, *map(int, re.findall(r"\d+", token))])
        elif _differs(token, previous):
            return None
        total += _weight(token)
        previous = token
    return total * times


def _differs(token: str, previous: str) -> bool:
    """Whether a token that is not a repeat may mean something else to Rust's matcher."""
    if token.startswith("(?"):
        return token != "(?:" and not token.startswith("(?P<")
    is_set = token[0] == "[" and _SETS.search(token[1:-1]) is not None
    is_boundary = previous == "\\b" and token == "{"  # a kind of word boundary, as \b{start}
    return is_set or is_boundary or token in _OTHERWISE


def _weight(token: str) -> int:
    if re.search(r"\\[wWdDsSbB]", token):
        return _OF_SCRIPTS
    return _OF_CLASS if token == "." or token[0] in "[\\" else 1


@lru_cache(maxsize=64)
def _automaton(expression: str) -> SchemaValidator | None:
    """The expression for whole texts; None if Rust's matcher does not take it."""
    try:
        return SchemaValidator(
            str_schema(pattern=f"^(?:{expression})$", regex_engine="rust-regex", strict=True)
        )
    except SchemaError:
        return None
