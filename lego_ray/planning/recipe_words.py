"""Messages that speak of flags, in the words of a recipe file, whose merges have keys instead."""

from __future__ import annotations

import re

from lego_ray.methods.names import MethodOptions
from lego_ray.options import keywords_of
from lego_ray.planning.recipe_form import SETTINGS, LibraryForm

_FLAG = re.compile(r"(?<![\w-])(?P<flag>--[a-z][a-z-]*)(?P<value> '[^'\n]*')?")
# What a message for both adds.
_FOR_BOTH = re.compile(r"; in a recipe file, [^.;]*")
# Flags that `build` and `refresh` have too.
_OWN_FLAGS = frozenset(("base", "checkpoints", "scan_limits"))


def _keys() -> dict[str, str]:
    from lego_ray.planning.options import ResultOptions, SourceOptions

    options = {**keywords_of(SourceOptions), **keywords_of(ResultOptions)}
    here = {*SETTINGS, *LibraryForm.model_fields} - _OWN_FLAGS
    found = {k.flag: name for name, k in options.items() if name in here}
    of_methods = {k.flag: f"options.{name}" for name, k in keywords_of(MethodOptions).items()}
    return {**of_methods, **found}


def in_recipe_words(text: str) -> str:
    """A message with keys of a recipe file in the place of flags that only `merge` has.

    `--only-base 'acme/model'` becomes `only_base: 'acme/model'`, and `--weight` becomes `weights`.

    Args:
        text: The message.
    """
    keys = _keys()

    def key(found: re.Match[str]) -> str:
        name = keys.get(found["flag"])
        if name is None:
            return found[0]
        return f"`{name}:{found['value']}`" if found["value"] else f"`{name}`"

    return _FLAG.sub(key, _FOR_BOTH.sub("", text))
