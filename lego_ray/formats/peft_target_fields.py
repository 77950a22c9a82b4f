"""The fields of a PEFT configuration that say which modules it adapts, as they are written."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from lego_ray.errors import MalformedAdapter
from lego_ray.formats.peft_patterns import FIX, compiled, is_affordable, whole_matcher
from lego_ray.formats.wrappers import unwrapped, unwrapped_pattern

# PEFT's word for all linear layers of the base model, which the file does not list.
_ALL_LINEAR = "all-linear"
_ANY_LAYER = r".*?\.[^.]*\.(?P<idx>\d+)\."
_BY_PATTERN = r"(?:^|.*?\.)%s\.(?P<idx>\d+)\."


@dataclass(frozen=True, slots=True)
class Names:
    """Names of modules, or ends of their paths; or an expression for whole paths.

    Attributes:
        names: The names.
        matches: Whether the expression matches a whole path; None if there are names.
    """

    names: frozenset[str] = frozenset()
    matches: Callable[[str], object] | None = None

    def match(self, path: str) -> bool:
        """Whether a module's path is meant."""
        if self.matches is not None:
            return bool(self.matches(path))
        if self.is_whole(path):
            return True
        dot = path.find(".")
        while dot >= 0:
            if path[dot + 1 :] in self.names:
                return True
            dot = path.find(".", dot + 1)
        return False

    def is_whole(self, path: str) -> bool:
        """Whether one of the names is the whole path, for which `layers_to_transform` does not count."""
        return path in self.names


def names_of(
    fields: Mapping[str, object],
    name: str,
    paths: Collection[str],
    unread: list[str],
    where: str,
) -> Names | None:
    """A field that is a list of names or an expression; None if it says nothing or was not read.

    Args:
        fields: The configuration, parsed.
        name: The field.
        paths: The modules' paths, or keys of their tensors.
        unread: Gets the field's name if its expression could take too long, so that it was not read.
        where: The configuration file, for the error.

    Raises:
        MalformedAdapter: If the value is of the wrong type, or is not a regular expression.
    """
    value = fields.get(name)
    if value is None or (not value and name == "exclude_modules"):
        return None
    if isinstance(value, str):
        if name == "target_modules" and value.lower() == _ALL_LINEAR:
            return None
        matches = whole_matcher(unwrapped_pattern(value), name, paths, where)
        if matches is None:
            unread.append(name)
            return None
        return Names(matches=matches)
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        problem = f"{name} is {str(value)[:80]!r}, expected a list of names, or a text"
        raise MalformedAdapter(where, problem, FIX)
    return Names(frozenset({*value, *map(unwrapped, value)}))


def layers_of(fields: Mapping[str, object], where: str) -> frozenset[int] | None:
    """`layers_to_transform`; None for all layers.

    Args:
        fields: The configuration, parsed.
        where: The configuration file, for the error.

    Raises:
        MalformedAdapter: If the value is of the wrong type.
    """
    value = fields.get("layers_to_transform")
    if value is None or value == []:
        return None
    numbers: Sequence[object] = value if isinstance(value, list) else [value]
    if not all(type(each) is int for each in numbers):
        problem = (
            f"layers_to_transform is {str(value)[:80]!r}, expected a whole number or a list of them"
        )
        raise MalformedAdapter(where, problem, FIX)
    return frozenset(each for each in numbers if isinstance(each, int))


def patterns_of(
    fields: Mapping[str, object], paths: Collection[str], unread: list[str], where: str
) -> tuple[re.Pattern[str], ...]:
    """Expressions for the number of a layer, by `layers_pattern`.

    Args:
        fields: The configuration, parsed.
        paths: The modules' paths, or keys of their tensors.
        unread: Gets the field's name if an expression could take too long; then any layer's is taken.
        where: The configuration file, for the error.

    Raises:
        MalformedAdapter: If the value is of the wrong type, or is not a regular expression.
    """
    value = fields.get("layers_pattern") or []
    written = [value] if isinstance(value, str) else value
    if not isinstance(written, list):
        problem = f"layers_pattern is {str(value)[:80]!r}, expected a name or a list of names"
        raise MalformedAdapter(where, problem, FIX)
    if not written:
        return (re.compile(_ANY_LAYER),)
    found = []
    for each in map(str, written):
        if not is_affordable(expression := _BY_PATTERN % each, paths):
            unread.append("layers_pattern")
            return (re.compile(_ANY_LAYER),)
        found.append(compiled(expression, f"layers_pattern {each[:80]!r}", where))
    return tuple(found)
