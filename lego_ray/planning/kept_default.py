"""A merge that no flag was given for stays with what no flag meant when it was first made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lego_ray.errors import MalformedAdapter
from lego_ray.methods.presets import DEFAULT_PRESET, FORMER_DEFAULTS, how_of
from lego_ray.planning.recipe import Recipe, recipe_from


def with_kept_default(recipe: Recipe, before: Sequence[Mapping[str, Any]]) -> Recipe:
    """The recipe, by the default of an earlier release if its merge was made by that.

    Args:
        recipe: What is asked for now.
        before: Recipes that the merge was made by before, or those of its groups, as manifests and the
            catalog record them; what this release cannot read is passed over.

    Returns:
        The recipe itself if it says how to merge, or no earlier default made the merge.
    """
    for name, former in by_former_defaults(recipe):
        if any(_is_by(former, fields) for fields in before):
            said = (
                f"it stays with the preset {name} that it was merged by before: no flag meant {name} in "
                f"earlier releases, and means {DEFAULT_PRESET} now; give one of the two as its preset"
            )
            return replace(former, notes=(*recipe.notes, said))
    return recipe


def by_former_defaults(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """The recipe by each default of earlier releases, with that preset's name.

    Args:
        recipe: What is asked for; of one that says how to merge there are none.
    """
    if recipe.by_default:
        for name in FORMER_DEFAULTS:
            yield name, replace(recipe, **how_of(name))


def _is_by(former: Recipe, fields: Mapping[str, Any]) -> bool:
    """Whether a recorded recipe merges as another does."""
    try:
        before = recipe_from(fields, "")
    except MalformedAdapter:
        return False
    return _how(before) == _how(former)


def _how(recipe: Recipe) -> tuple[object, ...]:
    return recipe.method, dict(recipe.options), recipe.output_scale, recipe.spectrum
