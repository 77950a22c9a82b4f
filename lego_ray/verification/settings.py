"""Which settings of merges differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lego_ray.formats.identity import family
from lego_ray.methods.names import MethodOptions
from lego_ray.methods.presets import PRESETS
from lego_ray.methods.scaling import checked_output_scale
from lego_ray.options import keywords_of, renamed
from lego_ray.planning.recipe import NOT_RECORDED, Recipe, canonical_json, recipe_from
from lego_ray.verification.against_manifest import CheckedMerge

# Fields of a recipe that say which merge it is, not how it was made.
_NOT_COMPARED = ("name", "parent", *NOT_RECORDED)


def recipe_of(merge: CheckedMerge) -> Recipe:
    """The recipe that a merge was made by.

    Raises:
        MalformedAdapter: If this release cannot read it.
    """
    merge_id = merge.manifest["merge_id"]
    return recipe_from(merge.manifest["recipe"], f"merge {merge_id[:12]}")


def preset_of(recipe: Recipe) -> str | None:
    """The first preset that a recipe equals in all that the preset settles, or None."""
    options = renamed(keywords_of(MethodOptions), recipe.options)
    for name, preset in PRESETS.items():
        if (
            (recipe.method, recipe.spectrum) == (preset.method, preset.spectrum)
            and recipe.output_scale == checked_output_scale(preset.output_scale)
            and all(options.get(option) == value for option, value in preset.options.items())
        ):
            return name
    return None


def layout_of(merge: CheckedMerge) -> str:
    """The layout that a merge is written in."""
    return str(merge.manifest.get("format") or merge.adapter.format)


def adapters_of(merge: CheckedMerge) -> frozenset[str]:
    """Ids of the adapters that a merge was made from."""
    return frozenset(family(source["adapter_id"]) for source in merge.manifest["sources"])


def differences(merges: Sequence[CheckedMerge], recipes: Sequence[Recipe]) -> dict[str, list[Any]]:
    """Settings that differ, each with its value in every merge; None where a method lacks it.

    An option that some of the methods lack counts if it differs between the others.

    Args:
        merges: The merges.
        recipes: The recipe of each.
    """
    settings = [_settings(*each) for each in zip(merges, recipes, strict=True)]
    names = dict.fromkeys(name for each in settings for name in each)
    found = {name: [each[name] for each in settings if name in each] for name in names}
    apart = {
        name: [each.get(name) for each in settings]
        for name, values in found.items()
        if len({canonical_json(value) for value in values}) > 1
    }
    if len({adapters_of(merge) for merge in merges}) > 1:
        apart["adapters"] = [len(merge.manifest["sources"]) for merge in merges]
    return apart


def _settings(merge: CheckedMerge, recipe: Recipe) -> dict[str, Any]:
    """How a merge was made: its recipe, with the options of its method one by one."""
    fields = {k: v for k, v in asdict(recipe).items() if k not in _NOT_COMPARED}
    options = renamed(keywords_of(MethodOptions), fields.pop("options"))
    return {
        "preset": preset_of(recipe),
        "method": fields.pop("method"),
        **options,
        **fields,
        "base_model": merge.manifest.get("base_model") or "",
        "dtype": merge.manifest.get("dtype") or merge.adapter.dtype,
        "layout": layout_of(merge),
    }
