"""The merge methods there are, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

from lego_ray.arguments import CHECKS, checked_value
from lego_ray.errors import InvalidOption
from lego_ray.methods.base import MergeMethod
from lego_ray.methods.concat import Concat
from lego_ray.methods.core_space import CoreSpace
from lego_ray.methods.ctm import Ctm
from lego_ray.methods.dare_linear import DareLinear
from lego_ray.methods.dare_ties import DareTies
from lego_ray.methods.iso import Iso
from lego_ray.methods.knots import Knots
from lego_ray.methods.lego import Lego
from lego_ray.methods.linear import Linear
from lego_ray.methods.magnitude_prune import MagnitudePrune
from lego_ray.methods.svd import Svd
from lego_ray.methods.ties import Ties
from lego_ray.methods.tsv import Tsv

# Dataclasses that are `MergeMethod`s; their fields are the methods' options.
METHODS: Mapping[str, type[Any]] = {
    "lego": Lego,
    "concat": Concat,
    "linear": Linear,
    "svd": Svd,
    "ties": Ties,
    "dare_linear": DareLinear,
    "dare_ties": DareTies,
    "magnitude_prune": MagnitudePrune,
    "tsv": Tsv,
    "iso": Iso,
    "core_space": CoreSpace,
    "knots": Knots,
    "ctm": Ctm,
}


def method_of(name: str, options: Mapping[str, object]) -> MergeMethod:
    """Makes a merge method from its name and options.

    Args:
        name: A key of `METHODS`.
        options: Values for the method's attributes; those not named keep their defaults.

    Raises:
        InvalidOption: If there is no such method or option, or a value is out of range.
    """
    if name not in METHODS:
        near = get_close_matches(str(name), list(METHODS), n=1)
        hint = f"Did you mean {near[0]}?" if near else ""
        raise InvalidOption("--method", f"{name!r} is not one of {', '.join(METHODS)}", hint)
    make: Callable[..., MergeMethod] = METHODS[name]
    known = [f.name for f in fields(METHODS[name])]
    for option in options:
        if option not in known:
            near = get_close_matches(option, known, n=1)
            hint = f"It has {', '.join(known)}." if known else "It has none."
            raise InvalidOption(
                option,
                f"the {name} method has no such option",
                f"Did you mean {near[0]}?" if near else hint,
            )
    types = {f.name: _checked_as(str(f.type)) for f in fields(METHODS[name])}
    flags = {option: f"--{option.replace('_', '-')}" for option in options}
    return make(**{o: checked_value(flags[o], types[o], v) for o, v in options.items()})


def _checked_as(annotation: str) -> str:
    """What a value of that type is first of all; a choice of words is text."""
    if annotation in CHECKS:
        return annotation
    return "str | None" if annotation.endswith("| None") else "str"
