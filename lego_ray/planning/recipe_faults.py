"""What is wrong with a merge of a recipe file: each fault with its path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lego_ray.errors import InvalidOption
from lego_ray.planning.rank_entries import RANKS
from lego_ray.planning.rank_options import asked_rank
from lego_ray.planning.recipe import Recipe
from lego_ray.planning.recipe_form import MergeForm


def recipe_with(settings: Mapping[str, Any]) -> Recipe:
    """The recipe of some settings.

    Raises:
        InvalidOption: If a value is out of its range, or two contradict each other.
    """
    asked = dict(settings)
    ranks = asked_rank(*(asked.pop(name, None) for name in RANKS))
    return Recipe(**asked, **ranks)


def faults_of(settings: dict[str, Any], path: str) -> Iterator[str]:
    """What `Recipe` has against some settings, tried one by one so that no fault hides another.

    Args:
        settings: Of the merge, by key.
        path: Where it is in the file, for faults.
    """
    ranks = {name: settings[name] for name in RANKS if name in settings}
    if not ranks:
        yield f"{path}.rank: missing; expected it here or in defaults"
    sound: dict[str, Any] = {"name": settings["name"], "rank": 1}
    tried = [(next(iter(ranks)), {**ranks, "name": settings["name"]})] if ranks else []
    tried += [(key, {**sound, key: value}) for key, value in settings.items() if key not in RANKS]
    for key, asked in tried:
        if key in ("name", "options"):
            continue
        try:
            recipe_with(asked)
        except InvalidOption as error:
            yield f"{path}.{'sites' if key == 'site_scales' else key}: {said_of(error)}"
            if key == "method":
                return
    if method := settings.get("method"):
        sound["method"] = method
    for option, value in settings.get("options", {}).items():
        try:
            Recipe(**sound, options={option: value})
        except InvalidOption as error:
            yield f"{path}.options.{option}: {said_of(error)}"


def faults_of_group_names(merges: Sequence[MergeForm]) -> Iterator[str]:
    """Names that a group of another merge may have."""
    grouped = [merge.name for merge in merges if merge.groups]
    for number, merge in enumerate(merges):
        of, dash, digits = merge.name.rpartition("-")
        if dash and digits.isdecimal() and of in grouped and not merge.groups:
            yield f"merges[{number}].name: {merge.name} is what a group of {of} may be called"


def said_of(error: InvalidOption) -> str:
    """In a list of faults, only a hint that is about this one is worth its place."""
    if error.hint == error.advice:
        return error.problem
    return f"{error.problem}. {error.hint}".rstrip(". ")
