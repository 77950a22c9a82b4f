"""Checks what the Python calls are given, by their annotations, before anything is read or written.

`@checked` goes on each public call. A value of a wrong type is an `InvalidOption` that names the
argument, the value and what is expected, so that no TypeError comes out of the depth of a run. Numbers
of numpy count as Python's; a bool is not a number, and NaN is none either. A number that is out of an
option's bounds is an `InvalidOption` in the words of the command line, whether or not the call uses it.
"""

from __future__ import annotations

import inspect
import math
import operator
import reprlib
import textwrap
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from difflib import get_close_matches
from functools import wraps
from os import PathLike, fspath
from typing import Any, NoReturn, ParamSpec, TypeVar

from lego_ray.errors import InvalidOption
from lego_ray.options import Keyword, keywords_of, renamed

P = ParamSpec("P")
R = TypeVar("R")

Check = Callable[[object], Any]


class _Unfit(Exception):
    """A value is not what was expected; without a message for that of its check."""


def checked(call: Callable[P, R]) -> Callable[P, R]:
    """A public call whose arguments are checked first.

    Args:
        call: A function each of whose annotations is a key of `CHECKS`.

    Raises:
        TypeError: If it has another annotation: then there is a check to add.
    """
    return _checked(call, {})


def checked_with(home: type) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """As `checked`, of a call whose `**options` are those of a home.

    `help` of the call lists them, with their defaults. One that is not given is not filled in.

    Args:
        home: As for `options.keywords_of`.
    """
    return lambda call: _checked(call, keywords_of(home))


def _checked(call: Callable[P, R], known: Mapping[str, Keyword]) -> Callable[P, R]:
    signature = inspect.signature(call)
    named = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    if len(named) < len(signature.parameters) and not known:
        raise TypeError(f"{call.__name__}: its options have no home")
    more = [
        inspect.Parameter(
            each.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=each.option.default,
            annotation=each.annotation,
        )
        for each in known.values()
    ]
    whole = signature.replace(parameters=[*named, *more])
    for parameter in whole.parameters.values():
        if str(parameter.annotation) not in CHECKS:
            raise TypeError(f"{call.__name__}: no check for {parameter}")

    @wraps(call)
    def checking(*args: P.args, **kwargs: P.kwargs) -> R:
        given: dict[str, Any] = kwargs
        if known:
            given = renamed(known, kwargs)
            _check_known(given, whole.parameters)
        bound = whole.bind(*args, **given)  # of an unknown name, Python's own TypeError
        for name, value in bound.arguments.items():
            parameter = whole.parameters[name]
            is_required = parameter.default is parameter.empty
            annotation = str(parameter.annotation)
            bound.arguments[name] = checked_value(
                name, annotation, value, is_required=is_required, hint=_HINT
            )
            if name in known:
                known[name].check_number(bound.arguments[name])
        return call(*bound.args, **bound.kwargs)

    checking.__signature__ = whole  # type: ignore[attr-defined]
    if known and checking.__doc__:
        checking.__doc__ += "\n\n    Options:\n" + "".join(map(_listed, known.values()))
    return checking


def _check_known(given: Iterable[str], known: Iterable[str]) -> None:
    for name in given:
        if name not in known:
            near = get_close_matches(name, list(known), n=1)
            hint = f"Did you mean {near[0]}?" if near else _HINT
            raise InvalidOption(name, "this option does not exist", hint)


def _listed(keyword: Keyword) -> str:
    """An option as a docstring lists it."""
    default = keyword.option.default_said or repr(keyword.option.default)
    text = f"{keyword.name}: {keyword.option.help} Default: {default}."
    return textwrap.fill(text, 100, initial_indent=" " * 8, subsequent_indent=" " * 12) + "\n"


def checked_value(
    name: str, annotation: str, value: object, *, is_required: bool = False, hint: str = ""
) -> Any:
    """A value that is of its argument's type, numpy's numbers as Python's.

    Args:
        name: The argument's, for the error.
        annotation: Its annotation, a key of `CHECKS`.
        value: What was given.
        is_required: Whether an empty list would leave nothing to do.
        hint: What to do next, for the error.

    Raises:
        InvalidOption: If it is not.
    """
    check, expected = CHECKS[annotation]
    try:
        fit = check(value)
        if is_required and isinstance(fit, tuple) and not fit:
            raise _Unfit("it is empty")
    except _Unfit as problem:
        said = str(problem) or f"{_shown(value)} is of type {type(value).__name__}"
        raise InvalidOption(name, f"{said}; expected {expected}", hint) from None
    return fit


_HINT = "`help` of the call says what each argument accepts."


def _shown(value: object) -> str:
    try:
        return reprlib.repr(value)
    except Exception:  # anyone's __repr__
        return "the value"


def _unfit(value: object) -> NoReturn:
    del value
    raise _Unfit


def _text(value: object) -> str:
    return str(value) if isinstance(value, str) else _unfit(value)


def _place(value: object) -> Any:
    if isinstance(value, str):
        return value
    if isinstance(value, PathLike) and isinstance(fspath(value), str):
        return value
    _unfit(value)


def _several(of: Check, value: object) -> tuple[Any, ...]:
    if isinstance(value, str | bytes | bytearray | Mapping) or not isinstance(value, Iterable):
        _unfit(value)
    try:
        members = iter(value)
    except TypeError:  # a numpy array without axes
        _unfit(value)
    found = []
    for each in members:
        try:
            found.append(of(each))
        except _Unfit:
            raise _Unfit(f"it holds {_shown(each)}, of type {type(each).__name__}") from None
    return tuple(found)


def _texts(value: object) -> tuple[str, ...]:
    return _several(_text, value)


def _places(value: object) -> Any:
    return _place(value) if isinstance(value, str | PathLike) else _several(_place, value)


def _whole(value: object) -> int:
    if isinstance(value, bool) or type(value).__name__ == "bool":  # numpy's too
        _unfit(value)
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except Exception:
        _unfit(value)


def _number(value: object) -> float:
    if isinstance(value, float) or hasattr(value, "dtype"):
        if "float" not in type(value).__name__:
            return _whole(value)
        number = float(value)  # type: ignore[arg-type]
        if not math.isfinite(number):
            raise _Unfit(f"{number} is not a finite number")
        return number
    return _whole(value)


def _flag(value: object) -> bool:
    is_flag = isinstance(value, bool) or type(value).__module__ == "numpy"
    if not is_flag or not type(value).__name__.startswith("bool"):
        _unfit(value)
    return bool(value)


def _numbers(value: object) -> dict[str, float]:
    if not isinstance(value, Mapping):
        _unfit(value)
    found = {}
    for name, number in value.items():
        try:
            found[_text(name)] = _number(number)
        except _Unfit as problem:
            said = str(problem) or f"it holds {_shown(name)}: {_shown(number)}"
            raise _Unfit(said) from None
    return found


def _bytes(value: object) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, str) else _whole(value)


def _runner(value: object) -> Any:
    if isinstance(value, str) or callable(getattr(value, "run", None)):
        return value
    _unfit(value)


def _call(value: object) -> Any:
    return value if callable(value) else _unfit(value)


def _instance(*kinds: type) -> Check:
    return lambda value: value if isinstance(value, kinds) else _unfit(value)


def _or_none(check: Check) -> Check:
    return lambda value: None if value is None else check(value)


def _or_text(check: Check) -> Check:
    return lambda value: value if isinstance(value, str) else check(value)


_PLACE = "a path or URI, as text or a pathlib.Path"
_NONE = ", or None"

# By annotation: what makes a value fit, and what is expected in words.
CHECKS: Mapping[str, tuple[Check, str]] = {
    "Uri": (_place, _PLACE),
    "str | PathLike[str]": (_place, _PLACE),
    "str | PathLike[str] | None": (_or_none(_place), _PLACE + _NONE),
    "Uri | None": (_or_none(_place), _PLACE + _NONE),
    "Uri | Sequence[Uri]": (_places, f"{_PLACE}, or a list of them"),
    "Uri | Sequence[Uri] | None": (_or_none(_places), f"{_PLACE}, or a list of them{_NONE}"),
    "Sequence[int]": (lambda value: _several(_whole, value), "a list of whole numbers"),
    "str": (_text, "text"),
    "str | None": (_or_none(_text), "text" + _NONE),
    "Sequence[str]": (_texts, "a list of texts"),
    "str | Sequence[str]": (_or_text(_texts), "text, or a list of texts"),
    "bool": (_flag, "True or False"),
    "int": (_whole, "a whole number"),
    "int | None": (_or_none(_whole), "a whole number" + _NONE),
    "int | str": (_bytes, "a whole number, or text"),
    "int | str | None": (_or_none(_or_text(_whole)), "a whole number, text" + _NONE),
    "float": (_number, "a number"),
    "float | None": (_or_none(_number), "a number" + _NONE),
    "str | float": (_or_text(_number), "a number, or text"),
    "float | str": (_or_text(_number), "a number, or text"),
    "float | str | None": (_or_none(_or_text(_number)), "a number, text" + _NONE),
    "Mapping[str, float] | None": (_or_none(_numbers), "a mapping of names to numbers" + _NONE),
    "str | Runner": (_runner, "ray, inline or a runner"),
    "Progress | None": (_or_none(_call), "something to call" + _NONE),
    "Counted": (_call, "something to call"),
    "str | timedelta": (_instance(str, timedelta), "a timedelta, or text such as 7d"),
    "str | timedelta | None": (
        _or_none(_instance(str, timedelta)),
        "a timedelta, or text such as 60s" + _NONE,
    ),
    "str | datetime": (
        _instance(str, datetime),
        "a datetime, or text such as 2026-11-24T10:00Z or 2d",
    ),
    "Moment": (
        _or_none(_instance(str, datetime)),
        "a datetime, or text such as 2026-11-24T10:00Z" + _NONE,
    ),
}
