"""Makes merge methods by name; a method's module is imported when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lego_ray.arguments import checked_value
from lego_ray.errors import InvalidOption
from lego_ray.methods.names import METHODS, MethodOptions, keyword
from lego_ray.options import keywords_of, renamed

if TYPE_CHECKING:
    from lego_ray.methods.base import MergeMethod


def class_of(name: str) -> type[Any]:
    """The class of a method: a dataclass that is a `MergeMethod`, with its options as fields.

    Args:
        name: A key of `METHODS`.

    Raises:
        InvalidOption: If there is no such method.
    """
    if name not in METHODS:
        near = get_close_matches(str(name), list(METHODS), n=1)
        hint = f"Did you mean {near[0]}?" if near else ""
        raise InvalidOption("--method", f"{name!r} is not one of {', '.join(METHODS)}", hint)
    module, _, called = METHODS[name].home.partition(":")
    found: type[Any] = getattr(import_module(module), called)
    return found


def method_of(name: str, options: Mapping[str, object]) -> MergeMethod:
    """Makes a merge method from its name and options.

    Args:
        name: A key of `METHODS`.
        options: Values of the method's options; those not named keep their defaults.

    Raises:
        InvalidOption: If there is no such method or option, or a value is out of range.
    """
    make: Callable[..., MergeMethod] = class_of(name)
    known = list(METHODS[name].options)
    given = {}
    for option, value in renamed(keywords_of(MethodOptions), options).items():
        if option not in known:
            near = get_close_matches(option, known, n=1)
            hint = f"Its options are {', '.join(known)}." if known else "It has no options."
            raise InvalidOption(
                option,
                f"the {name} method does not have this option",
                f"Did you mean {near[0]}?" if near else hint,
            )
        spelled = keyword(option)
        given[option] = checked_value(spelled.flag, spelled.annotation, value)
    return make(**given)
