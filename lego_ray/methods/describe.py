"""The methods and presets as `lego-ray methods` lists them. Loads no torch."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from lego_ray.errors import InvalidOption
from lego_ray.methods.facts import facts_of
from lego_ray.methods.names import METHODS, keyword
from lego_ray.methods.presets import PRESETS


def describe(name: str | None = None) -> dict[str, list[dict[str, Any]]]:
    """Describes the methods and presets.

    Args:
        name: Of one method or preset; None for all.

    Returns:
        `methods`, each with `name`, `summary`, `ranks`, `use`, `cost`, `lineage`,
        `lone_adapter_stays`, `spread`, `laws` and `options`, each of these with `name`, `default`,
        `values` and `help`; and `presets`, each with `name`, `method`, `options`, `spectrum`,
        `output_scale`, `use` and `warning`.

    Raises:
        InvalidOption: If neither a method nor a preset has the name.
    """
    found = {
        "methods": [_method(each) for each in METHODS if name in (None, each)],
        "presets": [_preset(each) for each in PRESETS if name in (None, each)],
    }
    if not any(found.values()):
        known = list(dict.fromkeys([*METHODS, *PRESETS]))
        near = get_close_matches(str(name), known, n=1)
        raise InvalidOption(
            str(name),
            "no method or preset has this name",
            f"Did you mean {near[0]}?" if near else f"There are {', '.join(known)}.",
        )
    return found


def _method(name: str) -> dict[str, Any]:
    method, facts = METHODS[name], facts_of(name)
    return {
        "name": name,
        "summary": method.summary,
        "ranks": method.ranks,
        "use": facts.use,
        "cost": facts.cost,
        "lineage": facts.lineage,
        "lone_adapter_stays": facts.alone,
        "spread": facts.spread,
        "laws": list(facts.laws),
        "options": [_option(each, default) for each, default in method.options.items()],
    }


def _option(name: str, default: Any) -> dict[str, Any]:
    found = keyword(name)
    # None: the value of `inner` says whether the method has it, and then this is its default.
    default = found.option.default if default is None else default
    return {"name": name, "default": default, "values": values_of(name), "help": found.option.help}


def values_of(name: str) -> str:
    """What an option of a method may be: its words, its bounds, or true and false.

    Args:
        name: The option's keyword.
    """
    found = keyword(name)
    option = found.option
    if found.annotation == "bool":
        return "true, false"
    if option.choices:
        return ", ".join(option.choices)
    whole = "a whole number" if found.annotation.startswith("int") else "a number"
    number = f"{whole} {option.range}".rstrip()
    return ", ".join([*option.words, number]) if option.words else number


def _preset(name: str) -> dict[str, Any]:
    preset = PRESETS[name]
    return {
        "name": name,
        "method": preset.method,
        "options": dict(preset.options),
        "spectrum": preset.spectrum,
        "output_scale": preset.output_scale,
        "use": preset.use,
        "warning": preset.warning,
    }
